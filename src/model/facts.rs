//! What a file and its manifest declare, before the layout of the outputs is known, and what follows for the outputs.

use super::error::ModelError;
use super::family::Family;
use super::manifest::Manifest;
use super::tensors::OutputSpec;
use crate::onnx::{OnnxInfo, Port};
use crate::types::Size;

/// More classes than this are a misread layout.
pub(super) const MAX_CLASSES: u64 = 100_000;

pub(super) struct Facts<'a> {
    /// The file, for messages.
    pub(super) path: String,
    pub(super) info: &'a OnnxInfo,
    pub(super) manifest: Option<&'a Manifest>,
    /// The manifest, for messages.
    pub(super) manifest_path: String,
    /// As configured.
    pub(super) input_size: Option<Size>,
}

impl<'a> Facts<'a> {
    pub(super) fn contradiction(&self, what: &'static str, file: String, manifest: String) -> ModelError {
        let manifest_path = self.manifest_path.clone();
        ModelError::Contradiction { path: self.path.clone(), what, file, manifest_path, manifest }
    }

    pub(super) fn unknown(&self, reason: impl Into<String>) -> ModelError {
        let outputs: Vec<String> = self.info.outputs.iter().map(Port::to_string).collect();
        ModelError::Layout { path: self.path.clone(), reason: reason.into(), outputs: outputs.join("; ") }
    }

    pub(super) fn family(&self) -> Option<Family> {
        self.manifest.and_then(|m| m.family)
    }

    pub(super) fn strides(&self) -> Option<&'a Vec<u32>> {
        self.manifest.and_then(|m| m.strides.as_ref())
    }

    /// The outputs that may be read: those that the manifest lists, in its order, else all.
    pub(super) fn ports(&self) -> Result<Vec<&'a Port>, ModelError> {
        let all = &self.info.outputs;
        let Some(names) = self.manifest.and_then(|m| m.outputs.as_ref()) else { return Ok(all.iter().collect()) };
        let find = |name: &String| {
            let missing = || {
                self.unknown(format!("{} lists the output `{name}`, which the file does not have", self.manifest_path))
            };
            all.iter().find(|port| port.name == *name).ok_or_else(missing)
        };
        names.iter().map(find).collect()
    }
}

/// All that decides about the layout of the outputs.
pub(super) struct Query<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) ports: Vec<&'a Port>,
    /// Of the input.
    pub(super) size: Size,
    /// Frames in one run.
    pub(super) frames: u64,
    pub(super) labels: Option<&'a [String]>,
    /// From the metadata.
    pub(super) max_stride: Option<u32>,
}

/// Outputs, and the strides where there is a grid.
pub(super) struct Found {
    pub(super) output: OutputSpec,
    pub(super) strides: Vec<u32>,
}

impl Query<'_> {
    pub(super) fn unknown(&self, reason: impl Into<String>) -> ModelError {
        self.facts.unknown(reason)
    }

    /// Sets of strides that are possible, the likeliest first. `parts`: how many heads a `Concat` joins; 0: not known.
    pub(super) fn strides(&self, parts: usize) -> Vec<Vec<u32>> {
        if let Some(strides) = self.facts.strides() {
            return vec![strides.clone()];
        }
        // Consecutive powers of two: YOLOv5s has 8/16/32, its P6 models 8 … 64, the shipped model 16/32/64.
        let set = |largest: u32, levels: u32| -> Option<Vec<u32>> {
            let smallest = largest >> (levels - 1);
            (smallest << (levels - 1) == largest && smallest > 1).then(|| (0..levels).map(|n| smallest << n).collect())
        };
        let largest: &[u32] = self.max_stride.as_ref().map_or(&[32, 64, 128], std::slice::from_ref);
        let mut sets: Vec<Vec<u32>> = largest.iter().flat_map(|l| [set(*l, 3), set(*l, 4)]).flatten().collect();
        // Stable: sets with as many heads come first, in the order above.
        sets.sort_by_key(|s| s.len() != parts);
        sets
    }

    /// N: rows of all heads together.
    pub(super) fn rows(&self, family: Family, strides: &[u32]) -> u64 {
        let cells = |s: &u32| u64::from(self.size.w / s) * u64::from(self.size.h / s);
        family.anchors() * strides.iter().map(cells).sum::<u64>()
    }

    /// The strides with which `family` has `n` rows.
    pub(super) fn strides_for(&self, family: Family, n: u64, parts: usize) -> Option<Vec<u32>> {
        self.strides(parts).into_iter().find(|strides| self.rows(family, strides) == n)
    }

    pub(super) fn wrong_classes(&self, reason: String) -> ModelError {
        ModelError::Classes { path: self.facts.path.clone(), reason }
    }
}
