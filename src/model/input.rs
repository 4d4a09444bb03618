//! The input that takes the picture: its size and layout.

use super::error::ModelError;
use super::facts::Facts;
use super::tensors::{Batch, Elem, MAX_BATCH};
use crate::onnx::{Dim, Port};
use crate::types::Size;

/// Input size of models that leave it open, when no other is set.
const DEFAULT_SIZE: u32 = 640;
/// Longest side of an input: 3·8192² f32 are 800 MB.
const MAX_SIDE: u64 = 8192;

pub(super) struct PictureInput<'a> {
    pub(super) port: &'a Port,
    pub(super) size: Size,
    /// At least one axis is symbolic.
    pub(super) dynamic: bool,
    /// `[b, h, w, 3]`.
    pub(super) channels_last: bool,
    /// A second input, which takes the picture's size.
    pub(super) size_input: Option<String>,
    /// Frames in one run, as far as the input fixes them.
    pub(super) batch: Batch,
}

pub(super) fn input<'a>(facts: &Facts<'a>) -> Result<PictureInput<'a>, ModelError> {
    let wrong = |reason: String| ModelError::Input { path: facts.path.clone(), reason };
    let (port, size_input) = match facts.info.inputs.as_slice() {
        [port] => (port, None),
        [port, second] | [second, port] if is_size(second) && !is_size(port) => (port, Some(second.name.clone())),
        seen => {
            let seen: Vec<String> = seen.iter().map(Port::to_string).collect();
            return Err(wrong(format!("a detector has one input, this model has {}: {}", seen.len(), seen.join("; "))));
        }
    };
    if !matches!(Elem::from_onnx(port.elem), Some(Elem::Float32 | Elem::Float16 | Elem::Uint8)) {
        return Err(wrong(format!(
            "input {port}: Ocelli feeds float32, float16 or uint8; export it without quantised input"
        )));
    }
    let Some([batch, a, b, c]) = port.dims.as_deref() else {
        return Err(wrong(format!("input {port}: the rank is wrong, Ocelli needs [1, 3, height, width]")));
    };
    let channels_last = c.fixed() == Some(3) && a.fixed() != Some(3);
    let (channels, height, width) = if channels_last { (c, a, b) } else { (a, b, c) };
    if channels.fixed().is_some_and(|c| c != 3) {
        return Err(wrong(format!(
            "input {port}: Ocelli needs 3 channels, [1, 3, height, width] or [1, height, width, 3]"
        )));
    }
    let frames = batch.fixed().unwrap_or(1);
    if !(1..=MAX_BATCH as u64).contains(&frames) || (frames > 1 && size_input.is_some()) {
        let most = if size_input.is_some() { 1 } else { MAX_BATCH };
        return Err(wrong(format!(
            "input {port}: the batch is fixed at {frames}, Ocelli takes 1 … {most} or a dynamic one; export it with batch 1"
        )));
    }
    let open = batch.fixed().is_none() && size_input.is_none();
    let size = Size::new(side(facts, width, "width")?, side(facts, height, "height")?);
    let dynamic = [batch, channels, height, width].iter().any(|d| d.fixed().is_none());
    let batch = Batch { size: frames as usize, open };
    Ok(PictureInput { port, size, dynamic, channels_last, size_input, batch })
}

/// `[b, 2]` of int64.
fn is_size(port: &Port) -> bool {
    Elem::from_onnx(port.elem) == Some(Elem::Int64)
        && matches!(port.dims.as_deref(), Some([_, two]) if two.fixed().is_none_or(|n| n == 2))
}

/// One side of the input: from the file, which the others may not contradict; else from the configuration, the
/// manifest, or [`DEFAULT_SIZE`].
fn side(facts: &Facts<'_>, dim: &Dim, what: &'static str) -> Result<u32, ModelError> {
    let pick = |size: Size| if what == "width" { size.w } else { size.h };
    let config = facts.input_size.map(pick);
    let declared = facts.manifest.map(|m| m.input).unwrap_or_default();
    let manifest = if what == "width" { declared.width } else { declared.height };
    let wrong = |reason: String| ModelError::Size { path: facts.path.clone(), reason };
    if let Some(fixed) = dim.fixed() {
        if let Some(config) = config.filter(|n| u64::from(*n) != fixed) {
            return Err(wrong(format!(
                "input_size asks for {what} {config}, but the file fixes it at {fixed}: remove input_size, or export \
                 the model with dynamic height and width"
            )));
        }
        if let Some(manifest) = manifest.filter(|n| u64::from(*n) != fixed) {
            return Err(facts.contradiction("input size", format!("{what} {fixed}"), format!("{what} {manifest}")));
        }
    }
    let side = dim.fixed().or(config.or(manifest).map(u64::from)).unwrap_or(u64::from(DEFAULT_SIZE));
    match u32::try_from(side) {
        Ok(n) if (1..=MAX_SIDE).contains(&side) => Ok(n),
        _ => Err(wrong(format!("{what} {side} of the input is outside of 1 … {MAX_SIDE}"))),
    }
}
