//! What a GPU engine depends on besides the model: the GPU's name, and the versions of NVIDIA's libraries.

use std::path::{Path, PathBuf};

/// Any of these means that the machine has an NVIDIA GPU and its driver.
pub const NVIDIA_DEVICES: [&str; 5] =
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu"];
/// Libraries on whose versions an engine depends.
const LIBRARIES: [&str; 4] = ["libnvinfer.so.", "libnvinfer_plugin.so.", "libcudnn.so.", "libcudart.so."];
/// Folders that are searched, besides `LD_LIBRARY_PATH` and the folder of ONNX Runtime.
const FOLDERS: [&str; 4] = ["/usr/local/cuda/lib64", "/usr/local/lib", "/usr/lib64", "/usr/lib"];

pub(in crate::infer) fn present() -> bool {
    NVIDIA_DEVICES.iter().any(|device| Path::new(device).exists())
}

/// The names of the GPUs, from the driver, and on a Jetson the name of the chip. Empty if neither is known.
pub(in crate::infer) fn name() -> String {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path().join("information")).unwrap_or_default();
        names.extend(model_of(&text));
    }
    if let Ok(text) = std::fs::read("/proc/device-tree/compatible") {
        names.extend(chip_of(&String::from_utf8_lossy(&text)));
    }
    names.sort();
    names.dedup();
    names.join(", ")
}

/// The value of `Model:` in the driver's page about a GPU.
fn model_of(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("Model:")).map(|model| model.trim().to_owned())
}

/// `tegra234` of `nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0`.
fn chip_of(text: &str) -> Option<String> {
    text.split('\0')
        .find_map(|name| name.strip_prefix("nvidia,").filter(|chip| chip.starts_with("tegra")).map(str::to_owned))
}

/// NVIDIA's libraries by their full file names (`libnvinfer.so.10.3.0`), sorted; those beside `runtime` too.
pub(in crate::infer) fn libraries(runtime: &Path) -> Vec<String> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| std::env::split_paths(&paths).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    folders.extend(runtime.parent().map(Path::to_owned));
    folders.extend(FOLDERS.iter().map(PathBuf::from));
    folders.push(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    let mut found: Vec<String> = folders.iter().flat_map(|folder| libraries_in(folder)).collect();
    found.sort();
    found.dedup();
    found
}

fn libraries_in(folder: &Path) -> Vec<String> {
    let named = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        LIBRARIES.iter().any(|library| name.starts_with(library)).then_some(())?;
        // The short name is a link to the file with the full version.
        path.canonicalize().ok()?.file_name()?.to_str().map(str::to_owned)
    };
    std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| named(&entry.path())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn libraries_are_listed_with_their_full_version() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libnvinfer.so.10.3.0", "libcudart.so.12.6.68", "libnvinfer.so", "libother.so.1"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        std::os::unix::fs::symlink("libnvinfer.so.10.3.0", dir.path().join("libnvinfer.so.10")).unwrap();
        let found = libraries(&dir.path().join("libonnxruntime.so"));
        for name in ["libnvinfer.so.10.3.0", "libcudart.so.12.6.68"] {
            assert_eq!(found.iter().filter(|found| *found == name).count(), 1, "{found:?}");
        }
        assert!(!found.iter().any(|name| name == "libnvinfer.so.10" || name.starts_with("libother")), "{found:?}");
    }

    #[test]
    fn a_gpu_and_a_chip_are_named() {
        let page = "Model: \t\t NVIDIA RTX A2000\nIRQ:   \t\t 147\n";
        assert_eq!(model_of(page), Some("NVIDIA RTX A2000".into()));
        assert_eq!(chip_of("nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0"), Some("tegra234".into()));
        assert_eq!(chip_of("raspberrypi,4-model-b\0brcm,bcm2711\0"), None);
    }
}
