//! A model specification without a file, for tests.

use std::sync::Arc;

use super::{Batch, ChannelOrder, Elem, Family, InputSpec, ModelSpec, OutputSpec};
use crate::types::{ModelId, Padding, Size};

/// A model that is known without a file.
pub(crate) fn spec(family: Family, size: Size, strides: &[u32], classes: usize) -> ModelSpec {
    let cells: u32 = strides.iter().map(|s| (size.w / s) * (size.h / s)).sum();
    let rows = match family.anchors() {
        0 => 300,
        anchors => anchors as usize * cells as usize,
    };
    ModelSpec {
        id: Arc::new(ModelId { name: "test".into(), sha256: String::new(), labels: Vec::new() }),
        path: "test.onnx".into(),
        input: InputSpec {
            name: "images".into(),
            size,
            elem: Elem::Float32,
            channels_last: false,
            order: ChannelOrder::Rgb,
            scale: 255.0,
            padding: Padding::Centered,
            pad_value: 114,
            size_input: None,
            batch: Batch::ONE,
        },
        output: OutputSpec::single("output0", family, rows, classes),
        strides: strides.to_vec(),
        dynamic: false,
        content_sha256: String::new(),
        manifest: None,
    }
}
