//! All that Ocelli must know about a model before it runs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::ModelError;
use super::facts::Facts;
use super::manifest::{MANIFEST, Manifest};
use super::tensors::{InputSpec, MAX_BATCH, OutputSpec};
use super::{file, layout};
use crate::onnx::{self, GateError, Policy};
use crate::types::{ModelId, Size};

/// A model that was opened, checked and resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    pub id: Arc<ModelId>,
    /// The `.onnx` file.
    pub path: PathBuf,
    pub input: InputSpec,
    pub output: OutputSpec,
    /// Strides of the detection heads, ascending; empty for families whose rows are not cells of a grid.
    pub strides: Vec<u32>,
    /// At least one axis of the input is symbolic: backends fix it to `[1, 3, h, w]` when they load the model.
    pub dynamic: bool,
    /// SHA-256 of the bytes that a runtime loads: that of the file, unless it has external data.
    pub content_sha256: String,
    pub manifest: Option<Manifest>,
}

impl ModelSpec {
    /// Opens an `.onnx` file, a folder with a `model.yaml`, or that file itself.
    ///
    /// An `.onnx` file beside a `model.yaml` that names it is read together with it. `input_size` is for models whose
    /// height and width are dynamic; else it must equal the file's.
    pub fn open(path: &Path, input_size: Option<Size>) -> Result<Self, ModelError> {
        let (file, manifest) = locate(path)?;
        let bytes = file::read(&file)?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        if let Some((manifest_path, Manifest { sha256: Some(expected), .. })) = &manifest {
            same_sha256(&file, &sha256, expected, &manifest_path.display().to_string())?;
        }
        let shown = || file.display().to_string();
        let (bytes, external) = gated(&file, bytes, manifest.as_ref().map(|(_, m)| m))?;
        let content_sha256 = if external { hex::encode(Sha256::digest(&bytes)) } else { sha256.clone() };
        let info = onnx::read(bytes.into()).map_err(|reason| ModelError::NotOnnx { path: shown(), reason })?;
        let (manifest_path, manifest) = manifest.map_or((None, None), |(p, m)| (Some(p), Some(m)));
        let facts = Facts {
            path: shown(),
            info: &info,
            manifest: manifest.as_ref(),
            manifest_path: manifest_path.map(|p| p.display().to_string()).unwrap_or_default(),
            input_size,
        };
        let found = layout::resolve(&facts)?;
        let stem = || file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = manifest.as_ref().and_then(|m| m.name.clone()).unwrap_or_else(stem);
        Ok(Self {
            id: Arc::new(ModelId { name, sha256, labels: found.labels }),
            path: file,
            input: found.input,
            output: found.output,
            strides: found.strides,
            dynamic: found.dynamic,
            content_sha256,
            manifest,
        })
    }

    /// The bytes that a runtime loads: read from the file again, with external data inside, and proved to be those that
    /// [`Self::open`] has checked. No runtime opens a file itself, so what it loads has passed the gate.
    ///
    /// # Errors
    /// Those of reading, and [`ModelError::Sha256`] when the file has changed since.
    pub fn bytes(&self) -> Result<Vec<u8>, ModelError> {
        let bytes = file::read(&self.path)?;
        let known = "the check at the start";
        let (bytes, _) = match self.content_sha256 == self.id.sha256 {
            true => (bytes, false),
            false => gated(&self.path, bytes, self.manifest.as_ref())?,
        };
        same_sha256(&self.path, &hex::encode(Sha256::digest(&bytes)), &self.content_sha256, known)?;
        Ok(bytes)
    }

    /// Where the model's golden pictures are, if it has any: backends are compared on them.
    pub fn golden(&self) -> PathBuf {
        self.path.with_file_name("golden")
    }

    /// The IoU threshold for NMS: `iou`, or infinity for families that need no NMS.
    pub fn nms_iou(&self, iou: f32) -> f32 {
        if self.output.family.wants_nms() { iou } else { f32::INFINITY }
    }

    /// Compares the file's SHA-256 with that of the configuration.
    pub fn check_sha256(&self, expected: &str) -> Result<(), ModelError> {
        same_sha256(&self.path, &self.id.sha256, expected, "the configuration (model.sha256)")
    }

    /// Applies the batch of the configuration ([`Self::set_batch`]) and checks the file against its SHA-256.
    pub fn held_to(mut self, batch: Option<usize>, sha256: Option<&str>) -> Result<Self, ModelError> {
        self.set_batch(batch)?;
        if let Some(expected) = sha256 {
            self.check_sha256(expected)?;
        }
        Ok(self)
    }

    /// Sets the most frames of one run. `None`: as many as the file fixes, else one.
    ///
    /// # Errors
    /// [`ModelError::Batch`] when the file does not allow it.
    pub fn set_batch(&mut self, frames: Option<usize>) -> Result<(), ModelError> {
        let Some(frames) = frames else { return Ok(()) };
        let batch = &mut self.input.batch;
        let refused = |reason: String| ModelError::Batch { path: self.path.display().to_string(), reason };
        if !(1..=MAX_BATCH).contains(&frames) {
            return Err(refused(format!("a batch of {frames} is outside of 1 … {MAX_BATCH}")));
        }
        if !batch.open && frames != batch.size {
            return Err(refused(format!(
                "a batch of {frames} was asked for, but this model takes {} frame(s) at once; remove `batch`, or export \
                 the model with a dynamic batch",
                batch.size
            )));
        }
        batch.size = frames;
        Ok(())
    }

    /// Whether a class passes the label filter, by `class_id`. The error for an unknown label names the nearest one.
    pub fn class_mask(&self, labels: &[String]) -> Result<Vec<bool>, ModelError> {
        let mut mask = vec![false; self.output.classes];
        for wanted in labels {
            // Two classes may have the same name; both pass.
            let named = |class: &usize| self.id.label(*class as u32) == wanted.as_str();
            let classes: Vec<usize> = (0..mask.len()).filter(named).collect();
            if classes.is_empty() {
                return Err(ModelError::Label {
                    model: self.id.name.clone(),
                    label: wanted.clone(),
                    hint: self.nearest_label(wanted),
                });
            }
            for class in classes {
                mask[class] = true;
            }
        }
        Ok(mask)
    }

    fn nearest_label(&self, wanted: &str) -> String {
        let best = self
            .id
            .labels
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, wanted).total_cmp(&strsim::jaro_winkler(b, wanted)));
        match best {
            Some(label) if strsim::jaro_winkler(label, wanted) > 0.8 => format!(": did you mean `{label}`?"),
            Some(label) => {
                format!("; its {} labels begin with `{label}`: see `ocelli models show`", self.id.labels.len())
            }
            None => format!("; it has no names, use class0 … class{}", self.output.classes.saturating_sub(1)),
        }
    }
}

/// Passes a model through the gate and copies its external data into it. Also returns whether there was any.
fn gated(path: &Path, bytes: Vec<u8>, manifest: Option<&Manifest>) -> Result<(Vec<u8>, bool), ModelError> {
    let refused = |error: GateError| match error {
        GateError::Onnx(reason) => ModelError::NotOnnx { path: path.display().to_string(), reason },
        reason => ModelError::Gate { path: path.display().to_string(), reason },
    };
    let policy = Policy {
        external_data: manifest.is_some_and(|m| m.allow_external_data),
        domains: manifest.and_then(|m| m.allow_domains.as_deref()).unwrap_or_default(),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    onnx::admit(bytes, folder, policy).map_err(refused)
}

/// The `.onnx` file, and the path and content of its manifest.
fn locate(path: &Path) -> Result<(PathBuf, Option<(PathBuf, Manifest)>), ModelError> {
    let meta = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::NotFound(path.to_owned()),
        _ => ModelError::Read { path: path.display().to_string(), source },
    })?;
    let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    if meta.is_dir() || is_yaml {
        let manifest_path = if is_yaml && !meta.is_dir() { path.to_owned() } else { path.join(MANIFEST) };
        if !manifest_path.is_file() {
            return Err(ModelError::NoManifest { folder: path.display().to_string(), hint: onnx_inside(path) });
        }
        let manifest = read_manifest(&manifest_path)?;
        let file = manifest_path.parent().unwrap_or(Path::new("")).join(&manifest.file);
        if !file.exists() {
            return Err(ModelError::Manifest {
                path: manifest_path.display().to_string(),
                message: format!("file: `{}` is not in this folder", manifest.file),
            });
        }
        return Ok((file, Some((manifest_path, manifest))));
    }
    let beside = path.parent().unwrap_or(Path::new("")).join(MANIFEST);
    // Only a manifest that names this file counts: a broken one of another model must not matter.
    let manifest = match read_manifest(&beside) {
        Ok(manifest) if Some(Path::new(&manifest.file).as_os_str()) == path.file_name() => Some((beside, manifest)),
        _ => None,
    };
    Ok((path.to_owned(), manifest))
}

fn onnx_inside(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .map(|f| f.path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .map(|p| p.display().to_string())
        .collect();
    names.sort();
    match names.as_slice() {
        [] => " and without an .onnx file: give a model folder (`ocelli models list`) or an .onnx file".into(),
        names => format!(": give the file itself ({})", names.join(", ")),
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, ModelError> {
    let shown = || path.display().to_string();
    let text = fs::File::open(path)
        .and_then(|file| {
            let mut text = String::new();
            // A manifest has a few hundred labels, far below 1 MiB.
            file.take(1 << 20).read_to_string(&mut text).map(|_| text)
        })
        .map_err(|source| ModelError::Read { path: shown(), source })?;
    Manifest::parse(&text).map_err(|message| ModelError::Manifest { path: shown(), message })
}

fn same_sha256(path: &Path, actual: &str, expected: &str, source_name: &str) -> Result<(), ModelError> {
    if actual.eq_ignore_ascii_case(expected.trim()) {
        return Ok(());
    }
    Err(ModelError::Sha256 {
        path: path.display().to_string(),
        actual: actual.to_owned(),
        expected: expected.to_owned(),
        source_name: source_name.to_owned(),
    })
}
