//! Where models are looked for.

use std::path::{Path, PathBuf};

use super::manifest::MANIFEST;

/// The model that ships with Ocelli.
const DEFAULT: &str = "yolov5s-efficientnetv2";
/// Models of the installed package.
const SYSTEM: &str = "/usr/share/ocelli/models";

/// The model to use when none is configured: `OCELLI_MODEL`, else the shipped one in `./models`, in
/// `/usr/share/ocelli/models`, or in a `models/` folder above the executable (a source checkout).
///
/// `OCELLI_MODEL` is returned unchecked: opening it reports what is wrong.
pub fn default_model() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("OCELLI_MODEL").filter(|p| !p.is_empty()) {
        return Some(path.into());
    }
    let executable = std::env::current_exe().ok();
    let above = executable.iter().flat_map(|exe| exe.ancestors().skip(1)).map(|folder| folder.join("models"));
    [PathBuf::from("models"), PathBuf::from(SYSTEM)]
        .into_iter()
        .chain(above)
        .map(|models| models.join(DEFAULT))
        .find(|folder| folder.join(MANIFEST).is_file())
}

/// Folders with a `model.yaml` below `root` (or in `./models`, then `/usr/share/ocelli/models`), sorted by name.
pub fn model_folders(root: Option<&Path>) -> std::io::Result<Vec<PathBuf>> {
    let roots = match root {
        Some(root) => vec![root.to_owned()],
        None => [PathBuf::from("models"), PathBuf::from(SYSTEM)].into_iter().filter(|p| p.is_dir()).collect(),
    };
    let mut folders = Vec::new();
    for root in roots {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&root)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| folder.join(MANIFEST).is_file())
            .collect();
        found.sort();
        folders.extend(found);
    }
    Ok(folders)
}
