//! Tensor data in other files of the model's folder is copied into the model, so that no runtime ever opens them.
//!
//! The path comes from the model and is not trusted. The kernel itself keeps it inside the folder (`openat2`): checking
//! the text and then opening it would leave time to put a link in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::error::{GateError, limit};
use super::gate::MAX_FILE;
use super::messages::{Kind, field};
use super::protobuf::{Slice, Value, put_bytes, put_number};
use super::tensor::{External, is_data, tensor_facts};

/// Other files of one model: exporters write one, or one per tensor for models that no edge box runs.
const MAX_FILES: usize = 256;
/// Levels of messages; the gate has limited nested graphs before.
const MAX_LEVELS: u32 = 128;

/// The model with the data of all its tensors inside.
pub(crate) fn inline(bytes: &[u8], folder: &Path) -> Result<Vec<u8>, GateError> {
    let mut inliner = Inliner { folder, files: HashMap::new(), left: MAX_FILE.saturating_sub(bytes.len() as u64) };
    inliner.message(Slice { data: bytes, at: 0 }, Kind::Model, 0)
}

struct Inliner<'a> {
    folder: &'a Path,
    /// Each with its length, by location.
    files: HashMap<String, (File, u64)>,
    /// Bytes that may still be added.
    left: u64,
}

impl Inliner<'_> {
    fn message(&mut self, body: Slice<'_>, kind: Kind, level: u32) -> Result<Vec<u8>, GateError> {
        if level > MAX_LEVELS {
            return Err(limit("levels of messages", MAX_LEVELS as usize));
        }
        let mut out = Vec::with_capacity(body.data.len());
        let mut fields = body.fields();
        while let Some(((field, value), raw)) = fields.next_raw()? {
            match (value, kind.part(field)) {
                (Value::Bytes(part), Some(Kind::Tensor)) => put_bytes(field, &self.tensor(part)?, &mut out),
                (Value::Bytes(part), Some(inner)) => {
                    put_bytes(field, &self.message(part, inner, level + 1)?, &mut out);
                }
                _ => out.extend_from_slice(raw),
            }
        }
        Ok(out)
    }

    fn tensor(&mut self, body: Slice<'_>) -> Result<Vec<u8>, GateError> {
        let facts = tensor_facts(body, usize::MAX)?;
        if !facts.is_external() {
            return Ok(body.data.to_vec());
        }
        let data = self.take(&facts.external()?)?;
        let mut out = Vec::with_capacity(body.data.len() + data.len());
        let mut fields = body.fields();
        while let Some(((field, _), raw)) = fields.next_raw()? {
            if !is_data(field) {
                out.extend_from_slice(raw);
            }
        }
        put_bytes(field::TENSOR_RAW, &data, &mut out);
        put_number(field::TENSOR_LOCATION, 0, &mut out);
        Ok(out)
    }

    /// The bytes that a tensor refers to.
    fn take(&mut self, external: &External) -> Result<Vec<u8>, GateError> {
        let wrong = |reason: String| external.wrong(&external.location, reason);
        let length = external.length.unwrap_or(external.needed);
        if length != external.needed {
            return Err(wrong(format!("its `length` is {length} bytes, but the shape needs {}", external.needed)));
        }
        let (file, size) = self.file(external)?;
        let end = external.offset.checked_add(length).filter(|end| *end <= size);
        if end.is_none() {
            return Err(wrong(format!(
                "{length} bytes at offset {} are more than the file has ({size} bytes)",
                external.offset
            )));
        }
        let mut data = vec![0; length as usize];
        file.read_exact_at(&mut data, external.offset).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        Ok(data)
    }

    /// The file of a location, opened once, and its length.
    fn file(&mut self, external: &External) -> Result<(&File, u64), GateError> {
        let wrong = |reason: String| external.wrong(&external.location, reason);
        self.left = self
            .left
            .checked_sub(external.needed)
            .ok_or_else(|| wrong(format!("this tensor makes the model longer than the limit of {MAX_FILE} bytes")))?;
        let full = self.files.len() >= MAX_FILES;
        let (file, size) = match self.files.entry(external.location.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => return Err(wrong(format!("the model uses more than {MAX_FILES} files"))),
            Entry::Vacant(new) => new.insert(open(self.folder, &external.location).map_err(wrong)?),
        };
        Ok((file, *size))
    }
}

/// Opens a file below `folder`: a regular file without links on the way and without a second name.
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
    // A hard link may give another user's file a name in this folder.
    if meta.nlink() != 1 {
        return Err(format!("it has {} names (hard links); copy it", meta.nlink()));
    }
    Ok((file, meta.len()))
}
