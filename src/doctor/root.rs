//! The file tree that is examined.

use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest text file that is read, bytes; dpkg's status file has a few MB.
const LONGEST: u64 = 16 << 20;

/// `/`, or a folder in its place: a mounted image or a test's tree.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Whether this is the machine's own tree.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The real path of the tree's absolute `path`.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// The text at `path`, without the zero bytes that end strings of the device tree; `None` when unreadable.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = self.at(path);
        // Reading a device or a pipe could block.
        let file = path.is_file().then(|| std::fs::File::open(&path).ok())??;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', ' ']).to_owned())
    }

    /// The text at `path`, if it is not empty.
    pub fn word(&self, path: &str) -> Option<String> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// The sorted names in the folder `path`; none when it cannot be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.at(path))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}
