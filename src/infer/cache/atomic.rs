//! Replacing a file as a whole.

use std::fs::File;
use std::io::{Read, Result, Write};
use std::path::Path;

/// Longest text that is read.
const LONGEST: u64 = 1024 * 1024;

/// Replaces `path`: after a crash or a power cut it holds the old text or the new one, never a part.
pub(in crate::infer) fn write(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// Makes sure that names which were made or changed in `folder` outlive a power cut.
pub(in crate::infer) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

pub(in crate::infer) fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}
