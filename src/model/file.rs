//! Reads model files: regular files of limited length, without ever blocking on a pipe.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::error::ModelError;
use crate::onnx::MAX_FILE;

/// Opens without blocking: a pipe without a writer would block forever.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::Read { path: path.display().to_string(), source };
    let file = open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let too_large = |bytes| ModelError::TooLarge { path: path.display().to_string(), bytes };
    if !meta.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    if meta.len() > MAX_FILE {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        0 => Err(ModelError::Empty(path.to_owned())),
        n if n > MAX_FILE => Err(too_large(n)),
        _ => Ok(bytes),
    }
}

/// SHA-256 of a file in lower-case hex, without reading it into memory as a whole.
pub fn file_sha256(path: &Path) -> Result<String, ModelError> {
    let failed = |source| ModelError::Read { path: path.display().to_string(), source };
    let mut file = open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(failed)?;
    Ok(hex::encode(hash.finalize()))
}
