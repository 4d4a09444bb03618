//! NVIDIA's libraries: path, version, and whether the file is intact. None is loaded.

use std::path::PathBuf;

use super::Root;
use crate::infer;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    pub path: PathBuf,
    /// From the file name, `10.3.0`.
    pub version: Option<String>,
    /// Why it cannot be loaded.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Libraries {
    /// `libcuda.so.1`.
    pub driver: Option<Library>,
    /// `libcudart.so`.
    pub cuda: Option<Library>,
    /// `libcudnn.so`.
    pub cudnn: Option<Library>,
    /// `libnvinfer.so`.
    pub tensorrt: Option<Library>,
}

pub(super) fn libraries(root: &Root) -> Libraries {
    let folders = folders(root);
    let find = |name: &str| find(root, &folders, name);
    Libraries {
        driver: find("libcuda.so"),
        cuda: find("libcudart.so"),
        cudnn: find("libcudnn.so"),
        tensorrt: find("libnvinfer.so"),
    }
}

/// Where NVIDIA's packages and administrators put them.
fn folders(root: &Root) -> Vec<String> {
    let arch = std::env::consts::ARCH;
    let mut folders: Vec<String> = match (root.is_real(), std::env::var("LD_LIBRARY_PATH")) {
        (true, Ok(path)) => path.split(':').filter(|folder| folder.starts_with('/')).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let toolkits = root.names("/usr/local").into_iter().filter(|name| name.starts_with("cuda"));
    for toolkit in toolkits {
        folders.push(format!("/usr/local/{toolkit}/lib64"));
        folders.push(format!("/usr/local/{toolkit}/targets/{arch}-linux/lib"));
    }
    for sub in ["", "/nvidia", "/tegra", "/nvidia/current"] {
        folders.push(format!("/usr/lib/{arch}-linux-gnu{sub}"));
    }
    folders.extend(["/usr/local/lib", "/usr/lib64", "/usr/lib/wsl/lib", "/usr/lib"].map(str::to_owned));
    folders
}

/// The first folder that has `name.*`, and in it the file with the longest version.
fn find(root: &Root, folders: &[String], name: &str) -> Option<Library> {
    let prefix = format!("{name}.");
    folders.iter().find_map(|folder| {
        let names = root.names(folder);
        let version = |name: &str| {
            let rest = name.strip_prefix(&prefix)?;
            rest.split('.').all(|part| part.parse::<u32>().is_ok()).then(|| rest.to_owned())
        };
        let found = names.iter().filter_map(|name| Some((version(name)?, name))).max_by_key(|(v, _)| v.len())?;
        let path = root.at(&format!("{folder}/{}", found.1));
        let trouble = infer::check_elf(&path).err();
        Some(Library { version: Some(found.0), path, trouble })
    })
}
