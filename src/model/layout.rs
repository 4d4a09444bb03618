//! From what a file and its manifest declare to input, output, classes and strides. Nothing is assumed that can be
//! computed.

use super::error::ModelError;
use super::facts::{Facts, Found, Query};
use super::family::Family;
use super::input::{PictureInput, input};
use super::tensors::{Batch, ChannelOrder, Elem, InputSpec, OutputSpec};
use super::{grid, names, recognise};
use crate::onnx::Dim;
use crate::types::Padding;

#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) labels: Vec<String>,
    pub(super) input: InputSpec,
    pub(super) output: OutputSpec,
    pub(super) strides: Vec<u32>,
    pub(super) dynamic: bool,
}

/// Resolves a model; every error names what was found and what to set.
pub(super) fn resolve(facts: &Facts<'_>) -> Result<Resolved, ModelError> {
    let PictureInput { port, size, dynamic, channels_last, size_input, batch } = input(facts)?;
    let labels = labels(facts)?;
    let max_stride = max_stride(facts)?;
    let frames = batch.size as u64;
    let query = Query { facts, ports: facts.ports()?, size, frames, labels: labels.as_deref(), max_stride };
    let Found { output, strides } = match recognise::find(&query)? {
        Some(found) => found,
        None => grid::find(&query)?,
    };
    check_size_input(facts, size_input.as_deref(), output.family)?;
    let batch = batch_of(facts, batch, &output)?;
    let declared = facts.manifest.map(|m| m.input).unwrap_or_default();
    // YOLOX was trained on OpenCV's own order and range, with the picture in the corner.
    let (order, scale, padding) = match output.family {
        Family::YoloX => (ChannelOrder::Bgr, 1.0, Padding::TopLeft),
        // A model that takes bytes does the division itself.
        _ if Elem::from_onnx(port.elem) == Some(Elem::Uint8) => (ChannelOrder::Rgb, 1.0, Padding::Centered),
        _ => (ChannelOrder::Rgb, 255.0, Padding::Centered),
    };
    Ok(Resolved {
        labels: labels.unwrap_or_default(),
        input: InputSpec {
            name: port.name.clone(),
            size,
            elem: Elem::from_onnx(port.elem).unwrap_or_default(),
            channels_last,
            order: declared.color.unwrap_or(order),
            scale: declared.scale.unwrap_or(scale),
            padding: declared.pad.unwrap_or(padding),
            pad_value: declared.pad_value.unwrap_or(114),
            size_input,
            batch,
        },
        output,
        strides,
        dynamic,
    })
}

/// [`Family::DetrBoxes`], and no other family, has a second input that takes the picture's size.
fn check_size_input(facts: &Facts<'_>, size_input: Option<&str>, family: Family) -> Result<(), ModelError> {
    let reason = match (size_input, family == Family::DetrBoxes) {
        (Some(name), false) => format!(
            "only `detr_boxes` models have a second input, and it takes the picture's size; `{name}` is one too many"
        ),
        (None, true) => "its boxes are in pixels of a picture whose size a second input `orig_target_sizes` [1, 2] \
                         must take, which it does not have; export it with that input"
            .into(),
        _ => return Ok(()),
    };
    Err(ModelError::Input { path: facts.path.clone(), reason })
}

/// The batch that input and outputs agree on.
fn batch_of(facts: &Facts<'_>, batch: Batch, output: &OutputSpec) -> Result<Batch, ModelError> {
    let flat = matches!(output.family, Family::NmsClassScore | Family::NmsScoreClass);
    let firsts = output.tensors.iter().filter_map(|tensor| {
        let port = facts.info.outputs.iter().find(|port| port.name == tensor.name)?;
        port.dims.as_deref()?.first().map(Dim::fixed)
    });
    let firsts: Vec<Option<u64>> = firsts.collect();
    if batch.size > 1 && (flat || firsts.iter().flatten().any(|first| *first != batch.size as u64)) {
        return Err(facts.unknown(format!(
            "the input takes {} frames at once, but not all outputs have as many parts; export it with batch 1",
            batch.size
        )));
    }
    // Rows after NMS in the graph belong to any frame, and an output of one part cannot hold two frames.
    let open = batch.open && !flat && firsts.iter().all(Option::is_none);
    Ok(Batch { open, ..batch })
}

/// Class names from the metadata, else from the manifest.
fn labels(facts: &Facts<'_>) -> Result<Option<Vec<String>>, ModelError> {
    let manifest = facts.manifest.and_then(|m| m.labels.as_ref());
    let Some(text) = facts.info.meta("names") else { return Ok(manifest.cloned()) };
    let names = names::parse(text).map_err(|e| ModelError::Classes {
        path: facts.path.clone(),
        reason: format!("the metadata `names` cannot be read, {e}"),
    })?;
    if let Some(manifest) = manifest
        && *manifest != names
    {
        let differ = names.iter().zip(manifest).position(|(a, b)| a != b).unwrap_or(names.len().min(manifest.len()));
        let show = |list: &[String]| {
            let name = list.get(differ).map_or("none".into(), |l| format!("`{l}`"));
            format!("{} classes with {name} as number {differ}", list.len())
        };
        return Err(facts.contradiction("labels", show(&names), show(manifest)));
    }
    Ok(Some(names))
}

/// The largest stride, from the metadata.
fn max_stride(facts: &Facts<'_>) -> Result<Option<u32>, ModelError> {
    let Some(text) = facts.info.meta("stride") else { return Ok(None) };
    // Exporters write `32`, `32.0` or `[8, 16, 32]`.
    let last = text.trim().trim_matches(['[', ']', '(', ')']).rsplit(',').map(str::trim).find(|s| !s.is_empty());
    let stride = last.and_then(|s| s.parse::<f64>().ok()).filter(|s| s.fract() == 0.0 && (1.0..=1024.0).contains(s));
    let Some(stride) = stride.map(|s| s as u32) else {
        return Err(ModelError::Size {
            path: facts.path.clone(),
            reason: format!("the metadata `stride` is `{text}`, expected a number such as 32"),
        });
    };
    match facts.strides() {
        Some(declared) if declared.last() != Some(&stride) => {
            Err(facts.contradiction("strides", format!("largest {stride}"), format!("{declared:?}")))
        }
        _ => Ok(Some(stride)),
    }
}
