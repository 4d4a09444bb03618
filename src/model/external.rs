//! Data of tensors in other files of the model's folder: taken in, so that no runtime ever opens them.
//!
//! A location is a foreign path. The kernel itself keeps it below the folder (`openat2`): a check of the text and an
//! `open` after it would leave room for a link that appears in between.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::gate::{GateError, MAX_FILE};
use super::gate_tensor::{External, tensor_facts};
use super::onnx::OnnxError;
use super::protobuf::{Fields, Slice, Value, put_bytes, put_number};

/// Other files of one model at most: exporters write one, or one per tensor for models that no edge box runs.
const MAX_FILES: usize = 256;

/// The model with the data of its tensors inside.
pub(super) fn inline(bytes: &[u8], folder: &Path) -> Result<Vec<u8>, GateError> {
    let mut inliner = Inliner { folder, files: Vec::new(), left: MAX_FILE.saturating_sub(bytes.len() as u64) };
    inliner.message(Slice { data: bytes, at: 0 }, Kind::Model, 0)
}

/// Messages on the way to a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Sparse,
    Training,
    Function,
    Tensor,
}

impl Kind {
    /// What `field` of this message holds, if a tensor may be in it. Field numbers as in `gate`.
    fn part(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::Sparse),
            (Self::Node, 5) => Some(Self::Attribute),
            _ => None,
        }
    }
}

struct Inliner<'a> {
    folder: &'a Path,
    files: Vec<(String, File, u64)>,
    /// Bytes that may still come in.
    left: u64,
}

/// Levels of messages: the gate has bounded those of graphs before.
const MAX_LEVELS: u32 = 128;

impl Inliner<'_> {
    fn message(&mut self, body: Slice<'_>, kind: Kind, level: u32) -> Result<Vec<u8>, GateError> {
        if level > MAX_LEVELS {
            return Err(OnnxError::Limit { what: "levels of messages", limit: MAX_LEVELS as usize }.into());
        }
        let mut out = Vec::with_capacity(body.data.len());
        let mut fields = body.fields();
        let mut begin = fields.at();
        while let Some((field, value)) = fields.next()? {
            let end = fields.at();
            match (value, kind.part(field)) {
                (Value::Bytes(part), Some(Kind::Tensor)) => put_bytes(field, &self.tensor(part)?, &mut out),
                (Value::Bytes(part), Some(inner)) => {
                    put_bytes(field, &self.message(part, inner, level + 1)?, &mut out);
                }
                _ => out.extend_from_slice(body.data.get(begin - body.at..end - body.at).unwrap_or_default()),
            }
            begin = end;
        }
        Ok(out)
    }

    /// TensorProto {raw_data = 9, external_data = 13, data_location = 14}
    fn tensor(&mut self, body: Slice<'_>) -> Result<Vec<u8>, GateError> {
        let facts = tensor_facts(body, usize::MAX)?;
        if !facts.is_external() {
            return Ok(body.data.to_vec());
        }
        let data = self.take(&facts.external()?)?;
        let mut out = Vec::with_capacity(body.data.len() + data.len());
        let mut fields = Fields::new(body.data, body.at);
        let mut begin = fields.at();
        while let Some((field, _)) = fields.next()? {
            let end = fields.at();
            if !matches!(field, 4 | 5 | 6 | 7 | 9 | 10 | 11 | 13 | 14) {
                out.extend_from_slice(body.data.get(begin - body.at..end - body.at).unwrap_or_default());
            }
            begin = end;
        }
        put_bytes(9, &data, &mut out);
        put_number(14, 0, &mut out);
        Ok(out)
    }

    /// The bytes that a tensor refers to.
    fn take(&mut self, external: &External) -> Result<Vec<u8>, GateError> {
        let wrong = |reason: String| external.wrong(&external.location, reason);
        let length = external.length.unwrap_or(external.needed);
        if length != external.needed {
            return Err(wrong(format!("{length} bytes are given, but the shape needs {}", external.needed)));
        }
        let (file, size) = self.file(external)?;
        let end = external.offset.checked_add(length).filter(|end| *end <= size);
        if end.is_none() {
            return Err(wrong(format!(
                "{length} bytes from {} on are more than the file has ({size})",
                external.offset
            )));
        }
        let mut data = vec![0; length as usize];
        file.read_exact_at(&mut data, external.offset).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        Ok(data)
    }

    /// The open file of a location, and its length.
    fn file(&mut self, external: &External) -> Result<(&File, u64), GateError> {
        let wrong = |reason: String| external.wrong(&external.location, reason);
        self.left = self
            .left
            .checked_sub(external.needed)
            .ok_or_else(|| wrong(format!("with this tensor the model is longer than the limit of {MAX_FILE} bytes")))?;
        let known = self.files.iter().position(|(name, ..)| *name == external.location);
        let index = match known {
            Some(index) => index,
            None => {
                if self.files.len() >= MAX_FILES {
                    return Err(wrong(format!("it is in more than {MAX_FILES} files")));
                }
                let (file, size) = open(self.folder, &external.location).map_err(wrong)?;
                self.files.push((external.location.clone(), file, size));
                self.files.len() - 1
            }
        };
        match self.files.get(index) {
            Some((_, file, size)) => Ok((file, *size)),
            None => Err(wrong("cannot be opened".into())),
        }
    }
}

/// Opens a file below `folder`: no link on the way, no second name, nothing but a regular file.
fn open(folder: &Path, location: &str) -> Result<(File, u64), String> {
    let path = Path::new(location);
    if location.is_empty() || !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err("it must be a path inside the model's folder, without `..`".into());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let dir = File::open(folder).map_err(|error| format!("the model's folder cannot be opened ({error})"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(&dir, path, flags, Mode::empty(), within).map_err(|error| match error {
        rustix::io::Errno::LOOP => "it is a symbolic link, or behind one".into(),
        rustix::io::Errno::NOSYS => "opening it safely needs Linux 5.6; save the model in one file instead".to_owned(),
        other => format!("cannot be opened ({other})"),
    })?;
    let file = File::from(file);
    let meta = file.metadata().map_err(|error| format!("cannot be opened ({error})"))?;
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    // A hard link may lead to a file of somebody else that this user may read.
    if meta.nlink() != 1 {
        return Err(format!("it has {} names (hard links); copy it", meta.nlink()));
    }
    Ok((file, meta.len()))
}
