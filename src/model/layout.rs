//! From what a file and its manifest say to input, output, classes and strides. Nothing is assumed that can be computed.

use super::Family;
use super::error::ModelError;
use super::input::{Input, input};
use super::manifest::Manifest;
use super::names;
use super::onnx::{Dim, OnnxInfo, Port};
use super::recognise::{self, Found};
use super::tensors::{Batch, ChannelOrder, Elem, InputSpec, OutputSpec, TensorSpec};
use crate::types::{Padding, Size};

/// Most classes: more is a misread layout.
pub(super) const MAX_CLASSES: u64 = 100_000;

/// Everything that is known before the layout is.
pub(super) struct Facts<'a> {
    /// The file, for messages.
    pub(super) path: String,
    pub(super) info: &'a OnnxInfo,
    pub(super) manifest: Option<&'a Manifest>,
    /// The manifest, for messages.
    pub(super) manifest_path: String,
    pub(super) input_size: Option<Size>,
}

/// What follows from the facts.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) labels: Vec<String>,
    pub(super) input: InputSpec,
    pub(super) output: OutputSpec,
    pub(super) strides: Vec<u32>,
    pub(super) dynamic: bool,
}

/// The output as the file declares it: `[b, second, third]`.
struct Shape<'a> {
    port: &'a Port,
    second: Option<u64>,
    third: Option<u64>,
    /// Parts that the last `Concat` joins; 0: not known.
    parts: usize,
}

/// Resolves a model; every failure says what was seen and what to set.
pub(super) fn resolve(facts: &Facts<'_>) -> Result<Resolved, ModelError> {
    let Input { port, size, dynamic, channels_last, size_input, batch } = input(facts)?;
    let labels = labels(facts)?;
    let max_stride = max_stride(facts)?;
    let Found { output, strides } = match recognise::find(facts, size, labels.as_deref(), max_stride)? {
        Some(found) => found,
        None => grid(facts, batch.size as u64, size, labels.as_deref(), max_stride)?,
    };
    if size_input.is_some() != (output.family == Family::DetrBoxes) {
        let reason = match size_input {
            Some(name) => format!(
                "only `detr_boxes` models have a second input, and it takes the picture's size; {name} is one too many"
            ),
            None => {
                "its boxes are in pixels of a picture whose size a second input `orig_target_sizes` [1, 2] must take, \
                     which it does not have; export it with that input"
                    .into()
            }
        };
        return Err(ModelError::Input { path: facts.path.clone(), reason });
    }
    let batch = batch_of(facts, batch, &output)?;
    let said = facts.manifest.map(|m| m.input).unwrap_or_default();
    // YOLOX was trained on OpenCV's own order and range, with the picture in the corner.
    let (order, scale, padding) = match output.family {
        Family::YoloX => (ChannelOrder::Bgr, 1.0, Padding::TopLeft),
        // A model that takes bytes does the division itself.
        _ if port.elem == 2 => (ChannelOrder::Rgb, 1.0, Padding::Centered),
        _ => (ChannelOrder::Rgb, 255.0, Padding::Centered),
    };
    Ok(Resolved {
        labels: labels.unwrap_or_default(),
        input: InputSpec {
            name: port.name.clone(),
            size,
            elem: Elem::from_onnx(port.elem).unwrap_or_default(),
            channels_last,
            order: said.color.unwrap_or(order),
            scale: said.scale.unwrap_or(scale),
            padding: said.pad.unwrap_or(padding),
            pad_value: said.pad_value.unwrap_or(114),
            size_input,
            batch,
        },
        output,
        strides,
        dynamic,
    })
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
        return Err(unknown(
            facts,
            format!(
                "the input takes {} frames at once, but not all outputs have as many parts; export it with batch 1",
                batch.size
            ),
        ));
    }
    // Rows after NMS in the graph belong to any frame, and an output of one part cannot hold two frames.
    let open = batch.open && !flat && firsts.iter().all(Option::is_none);
    Ok(Batch { open, ..batch })
}

/// The families with one output, whose rows are the cells of grids.
fn grid(
    facts: &Facts<'_>,
    frames: u64,
    size: Size,
    labels: Option<&[String]>,
    max_stride: Option<u32>,
) -> Result<Found, ModelError> {
    let shape = output(facts, frames)?;
    let family = family(facts, &shape, size, labels, max_stride)?;
    let classes = classes(facts, &shape, family, labels)?;
    let strides = strides(facts, &shape, family, size, max_stride)?;
    let rows = rows(family, size, &strides) as usize;
    let tensor = TensorSpec {
        name: shape.port.name.clone(),
        shape: family.shape(rows, classes).to_vec(),
        elem: Elem::from_onnx(shape.port.elem).unwrap_or_default(),
    };
    Ok(Found { output: OutputSpec { family, rows, classes, tensors: vec![tensor], anchors: Vec::new() }, strides })
}

pub(super) fn contradiction(facts: &Facts<'_>, what: &'static str, file: String, manifest: String) -> ModelError {
    let manifest_path = facts.manifest_path.clone();
    ModelError::Contradiction { path: facts.path.clone(), what, file, manifest_path, manifest }
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
        return Err(contradiction(facts, "labels", show(&names), show(manifest)));
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
    match facts.manifest.and_then(|m| m.strides.as_ref()) {
        Some(said) if said.last() != Some(&stride) => {
            Err(contradiction(facts, "strides", format!("largest {stride}"), format!("{said:?}")))
        }
        _ => Ok(Some(stride)),
    }
}

pub(super) fn unknown(facts: &Facts<'_>, reason: impl Into<String>) -> ModelError {
    let outputs: Vec<String> = facts.info.outputs.iter().map(Port::to_string).collect();
    ModelError::Layout { path: facts.path.clone(), reason: reason.into(), outputs: outputs.join("; ") }
}

/// The first output of rank 3. Old exports list their raw heads beside the decoded output.
fn output<'a>(facts: &Facts<'a>, frames: u64) -> Result<Shape<'a>, ModelError> {
    if let Some(task) = facts.info.meta("task").filter(|t| *t != "detect") {
        return Err(unknown(facts, format!("the model's task is `{task}`, Ocelli runs detectors (`detect`)")));
    }
    for port in recognise::ports(facts)? {
        let n = facts.info.outputs.iter().position(|p| p.name == port.name).unwrap_or(0);
        let Some([batch, second, third]) = port.dims.as_deref() else { continue };
        if batch.fixed().is_some_and(|b| b != frames) {
            continue;
        }
        if !matches!(port.elem, 1 | 10) {
            return Err(unknown(facts, format!("output `{}` must be float32 or float16", port.name)));
        }
        let parts = facts.info.concat_parts.get(n).copied().unwrap_or(0);
        return Ok(Shape { port, second: second.fixed(), third: third.fixed(), parts });
    }
    Err(unknown(facts, "no output of rank 3 ([1, N, 5 + classes])"))
}

/// Which layout: the manifest's word, else what the shape allows.
fn family(
    facts: &Facts<'_>,
    shape: &Shape<'_>,
    size: Size,
    labels: Option<&[String]>,
    max_stride: Option<u32>,
) -> Result<Family, ModelError> {
    if let Some(family) = facts.manifest.and_then(|m| m.family) {
        return Ok(family);
    }
    let fits = |family: Family, n: Option<u64>| {
        n.is_some_and(|n| candidates(facts, shape.parts, max_stride).iter().any(|s| rows(family, size, s) == n))
    };
    let columns = |n: Option<u64>, fixed: u64| match labels {
        Some(labels) => n.is_none_or(|n| n == fixed + labels.len() as u64),
        None => n.is_some_and(|n| n > fixed),
    };
    let (second, third) = (shape.second, shape.third);
    if fits(Family::YoloV5, second) || (second.is_none() && columns(third, 5)) {
        return Ok(Family::YoloV5);
    }
    if fits(Family::YoloV8, third) || (third.is_none() && second.is_some() && columns(second, 4)) {
        return Ok(Family::YoloV8);
    }
    if fits(Family::YoloX, second) {
        return Err(unknown(
            facts,
            "it looks like YOLOX: write `family: yolox` (and `labels`) into a model.yaml beside it",
        ));
    }
    let stride = max_stride.map_or("no stride in the metadata".into(), |s| format!("largest stride {s}"));
    Err(unknown(
        facts,
        format!(
            "for an input of {size} and {stride} neither [1, N, 5 + classes] nor [1, 4 + classes, N] fits; if you know \
             better, write `family`, `strides` and `labels` into a model.yaml beside it"
        ),
    ))
}

/// Number of classes: from the shape, which the labels must agree with; else from the labels.
fn classes(
    facts: &Facts<'_>,
    shape: &Shape<'_>,
    family: Family,
    labels: Option<&[String]>,
) -> Result<usize, ModelError> {
    let wrong = |reason: String| ModelError::Classes { path: facts.path.clone(), reason };
    let (columns, fixed) = match family {
        Family::YoloV5 | Family::YoloX => (shape.third, 5),
        _ => (shape.second, 4),
    };
    let named = labels.map(|l| l.len() as u64);
    let count = match (columns, named) {
        (Some(columns), named) => {
            let count = columns.saturating_sub(fixed);
            if let Some(named) = named.filter(|n| *n != count) {
                let origin = if facts.info.meta("names").is_some() { "the metadata `names`" } else { "the manifest" };
                return Err(wrong(format!(
                    "output `{}` has {columns} columns, that is {fixed} + {count} classes ({}), but {origin} names {named}",
                    shape.port.name,
                    family.as_str(),
                )));
            }
            count
        }
        (None, Some(named)) => named,
        (None, None) => {
            return Err(wrong(format!(
                "output {} does not tell it and the file has no `names`: write `labels` into a model.yaml beside it",
                shape.port
            )));
        }
    };
    match count {
        1..=MAX_CLASSES => Ok(count as usize),
        _ => Err(wrong(format!("{count} classes; expected 1 … {MAX_CLASSES}. Output {}", shape.port))),
    }
}

/// Sets of strides that could be meant, likeliest first.
pub(super) fn candidates(facts: &Facts<'_>, parts: usize, max_stride: Option<u32>) -> Vec<Vec<u32>> {
    if let Some(strides) = facts.manifest.and_then(|m| m.strides.clone()) {
        return vec![strides];
    }
    // Consecutive powers of two: the yolov5s family 8/16/32, its P6 sisters 8 … 64, the document's detector 16/32/64.
    let set = |largest: u32, levels: u32| -> Option<Vec<u32>> {
        let smallest = largest >> (levels - 1);
        (smallest << (levels - 1) == largest && smallest > 1).then(|| (0..levels).map(|n| smallest << n).collect())
    };
    let largest: &[u32] = max_stride.as_ref().map_or(&[32, 64, 128], std::slice::from_ref);
    let sets = largest.iter().flat_map(|l| [set(*l, 3), set(*l, 4)]).flatten();
    let mut sets: Vec<Vec<u32>> = sets.collect();
    // Stable: what the last Concat joins comes first, the order above decides the rest.
    sets.sort_by_key(|s| s.len() != parts);
    sets
}

/// N: rows of all heads together.
pub(super) fn rows(family: Family, size: Size, strides: &[u32]) -> u64 {
    let cells = |s: &u32| u64::from(size.w / s) * u64::from(size.h / s);
    family.anchors() * strides.iter().map(cells).sum::<u64>()
}

/// The strides, proved by N when the file fixes it.
fn strides(
    facts: &Facts<'_>,
    shape: &Shape<'_>,
    family: Family,
    size: Size,
    max_stride: Option<u32>,
) -> Result<Vec<u32>, ModelError> {
    let candidates = candidates(facts, shape.parts, max_stride);
    let fixed = if family == Family::YoloV8 { shape.third } else { shape.second };
    let found = match fixed {
        Some(n) => candidates.iter().find(|s| rows(family, size, s) == n),
        None => candidates.first(),
    };
    let Some(found) = found else {
        let tried: Vec<String> = candidates.iter().map(|s| format!("{s:?} gives {}", rows(family, size, s))).collect();
        return Err(unknown(
            facts,
            format!(
                "its {} rows fit no strides at {size} ({}: {}); write the right `strides` into a model.yaml beside it",
                fixed.unwrap_or(0),
                family.as_str(),
                tried.join(", ")
            ),
        ));
    };
    let largest = found.last().copied().unwrap_or(1).max(1);
    if !size.w.is_multiple_of(largest) || !size.h.is_multiple_of(largest) {
        let next = Size::new(size.w.next_multiple_of(largest), size.h.next_multiple_of(largest));
        return Err(ModelError::Size {
            path: facts.path.clone(),
            reason: format!(
                "input size {size} is no multiple of the largest stride {largest}: the next valid size is {next}"
            ),
        });
    }
    Ok(found.clone())
}
