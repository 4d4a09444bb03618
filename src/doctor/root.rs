//! The file tree that is looked at.

use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest text file that is read, bytes: dpkg's list of packages is a few MB.
const LONGEST: u64 = 16 << 20;

/// `/`, or a folder that stands in its place: a mounted image, or the fixture of a test.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    /// The tree below `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// True for the machine's own tree.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where the absolute `path` of the tree lies.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// True when there is something at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// The text at `path`, without the zero bytes that the device tree ends its strings with; `None` when unreadable.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = self.at(path);
        // A device or a pipe in the place of a file would hold us up.
        let file = path.is_file().then(|| std::fs::File::open(&path).ok())??;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', ' ']).to_owned())
    }

    /// The text at `path` when it is not empty.
    pub fn word(&self, path: &str) -> Option<String> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// The names in the folder `path`, sorted; none when it cannot be read.
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
