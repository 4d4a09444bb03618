//! `model.yaml`: what the ONNX file itself does not declare.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::family::Family;
use super::tensors::{Anchor, ChannelOrder};
use crate::types::Padding;

/// File name of the manifest in a model's folder.
pub const MANIFEST: &str = "model.yaml";

/// A model's manifest. Only `file` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Default: the file's stem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The `.onnx` file, relative to the manifest and inside its folder.
    pub file: String,
    /// Of the file, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    #[serde(default)]
    pub input: ManifestInput,
    /// Strides of the detection heads, ascending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strides: Option<Vec<u32>>,
    /// The anchors of each raw head, finest first, as [width, height] in input pixels (`family: yolov5_heads`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchors: Option<Vec<Vec<Anchor>>>,
    /// Names of the outputs to read, where others look alike; for `yolonas` boxes first, then scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<String>>,
    /// Class names, by `class_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Tensor data may lie in other files of this folder. It is copied into the model before a runtime sees it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_external_data: bool,
    /// Operator domains besides ONNX' own that the model may use, for example `com.microsoft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_domains: Option<Vec<String>>,
    /// SPDX expression of the weights' licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Origin of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Measured accuracy, by the name of the measure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accuracy: BTreeMap<String, f64>,
}

/// The input. What is not set follows from the family.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestInput {
    /// Width in pixels, for models whose width is dynamic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels, for models whose height is dynamic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<ChannelOrder>,
    /// Pixels 0 … 255 are divided by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Where the letterbox puts its border.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<Padding>,
    /// Grey level of the border, 0 … 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_value: Option<u8>,
}

impl Manifest {
    /// Parses a manifest. The error is a text with line, column and the source line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        // A downloaded folder must not refer to files outside of it.
        let file = Path::new(&self.file);
        if self.file.is_empty() || !file.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(format!("file: `{}` must be a path inside the model's folder, without `..`", self.file));
        }
        if let Some(sha) = &self.sha256
            && !(sha.len() == 64 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(format!("sha256: `{sha}` must be 64 hexadecimal digits (`sha256sum {}`)", self.file));
        }
        if let Some(scale) = self.input.scale
            && !(scale.is_finite() && scale > 0.0)
        {
            return Err(format!("input.scale: {scale} must be a positive number, usually 255 or 1"));
        }
        if let Some(strides) = &self.strides {
            let ascending = strides.windows(2).all(|w| w[0] < w[1]);
            if strides.is_empty() || !ascending || strides[0] == 0 || strides.len() > 8 {
                return Err(format!(
                    "strides: {strides:?} must be ascending positive numbers, for example [8, 16, 32]"
                ));
            }
        }
        if let Some(heads) = &self.anchors {
            let sound = |side: &f32| side.is_finite() && *side > 0.0;
            if heads.is_empty() || heads.iter().any(Vec::is_empty) || !heads.iter().flatten().flatten().all(sound) {
                return Err("anchors: give one list per head, finest first, of [width, height] in input pixels, for \
                            example [[[10, 13], [16, 30], [33, 23]], …]"
                    .into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_manifest_with_all_keys_parses() {
        let sha = "ab".repeat(32);
        let text = format!(
            "name: x\nfile: model.onnx\nsha256: \"{sha}\"\nfamily: yolov5\ninput: {{width: 416, height: 320, color: bgr, \
             scale: 255, pad: top_left, pad_value: 114}}\nstrides: [8, 16, 32]\nlabels: [person, \"it's\"]\n\
             license: MIT\nsource: here\naccuracy: {{map50: 0.5}}\n"
        );
        let m = Manifest::parse(&text).unwrap();
        assert_eq!(m.name.as_deref(), Some("x"));
        assert_eq!(m.family, Some(Family::YoloV5));
        assert_eq!(m.input.color, Some(ChannelOrder::Bgr));
        assert_eq!(m.input.pad, Some(Padding::TopLeft));
        assert_eq!((m.input.width, m.input.height), (Some(416), Some(320)));
        assert_eq!(m.labels.as_deref(), Some(&["person".to_owned(), "it's".to_owned()][..]));
        assert_eq!(m.accuracy["map50"], 0.5);
    }

    #[test]
    fn a_manifest_needs_only_the_file() {
        let m = Manifest::parse("file: a.onnx\n").unwrap();
        assert_eq!(m.file, "a.onnx");
        assert_eq!(m.input, ManifestInput::default());
    }

    #[test]
    fn wrong_manifests_name_the_key() {
        for (text, part) in [
            ("name: x\n", "file"),
            ("file: a.onnx\nstride: 32\n", "stride"),
            ("file: a.onnx\ninput: {heigth: 3}\n", "heigth"),
            ("file: a.onnx\nfamily: yolov3\n", "yolov3"),
            ("file: ../a.onnx\n", "inside"),
            ("file: /etc/passwd\n", "inside"),
            ("file: a.onnx\nsha256: abc\n", "64"),
            ("file: a.onnx\nstrides: [32, 8]\n", "ascending"),
            ("file: a.onnx\ninput: {scale: 0}\n", "scale"),
            ("file: a.onnx\nanchors: [[[10, -13]]]\n", "anchors"),
            ("file: a.onnx\nanchors: [[]]\n", "anchors"),
            ("file: a.onnx\nanchors: [[[1, 2, 3]]]\n", ""),
            ("file: [a\n", ""),
            ("", ""),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
