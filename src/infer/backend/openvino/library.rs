//! OpenVINO's library: where it is looked for, and the libraries that it opens itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{BackendChoice, ModelConfig, Precision};
use crate::infer::InferError;
use crate::infer::runtime::library::{Runtime, found_in};
use crate::infer::runtime::probe::in_child;

/// OpenVINO: backend `openvino`.
pub static OPENVINO: Runtime = Runtime {
    name: "OpenVINO",
    // Older versions number the element types differently.
    oldest: "2025.1",
    file: "libopenvino_c.so",
    named_by: "model.openvino.library, with its other libraries beside it",
    instead: "cpu",
    // Set by OpenVINO's installers and their scripts.
    variables: &["OPENVINO_INSTALL_DIR", "INTEL_OPENVINO_DIR"],
    // Of the archive, of the Python package, of a plain copy.
    inside: &["runtime/lib/intel64", "runtime/lib/aarch64", "runtime/lib/arm64", "openvino/libs", "libs", ""],
    installed: Some("/opt/intel/openvino"),
    parts,
    probe_args: &["--provider", "openvino"],
    timeout: Duration::from_secs(30),
};

/// Libraries that OpenVINO opens when it loads the first model.
const PARTS: [&str; 5] = [
    "libopenvino.so",
    "libopenvino_onnx_frontend.so",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_arm_cpu_plugin.so",
    "libtbb.so.12",
];
/// Debian's packages put some of them into a folder `openvino-<version>` beside the library.
const PARTS_FOLDER: &str = "openvino-";

/// Whether OpenVINO may be in the fallback order. In f32 it is hardly faster than ONNX Runtime and takes more memory, so
/// `auto` leaves it out unless another precision is set.
pub fn wants_openvino(config: &ModelConfig) -> bool {
    match config.backend {
        BackendChoice::Auto => config.openvino.precision != Precision::F32,
        choice => choice == BackendChoice::Openvino,
    }
}

/// Whether it may be in the fallback order and there is a library to try.
pub(in crate::infer) fn is_available(config: &ModelConfig) -> bool {
    wants_openvino(config) && !OPENVINO.candidates(config.openvino.library.as_deref()).1.is_empty()
}

/// Checks in a child process whether a library that works computes in `precision` on this processor.
pub fn openvino_computes(path: &Path, precision: Precision) -> Result<(), String> {
    let args = ["--provider", "openvino", "--precision", precision.as_str()];
    match in_child(path, &args, OPENVINO.timeout, |reason| OPENVINO.unusable(path, reason)) {
        Ok(_) => Ok(()),
        Err(InferError::Library { reason, .. } | InferError::Prober { reason, .. }) => Err(reason),
        Err(other) => Err(other.to_string()),
    }
}

fn parts(path: &Path) -> Vec<PathBuf> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(folder) = real.parent() else { return Vec::new() };
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let packaged = below.filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTS_FOLDER));
    let mut folders: Vec<PathBuf> = packaged.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.push(folder.to_owned());
    folders.sort();
    PARTS.iter().flat_map(|part| found_in(&folders, part)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_named_library_is_available_to_auto_only_where_it_is_faster() {
        let mut config = ModelConfig::default();
        config.openvino.library = Some("/nowhere/libopenvino_c.so".into());
        assert!(!is_available(&config), "in f32 nothing is gained");
        for precision in [Precision::Bf16, Precision::F16] {
            config.openvino.precision = precision;
            assert!(is_available(&config));
        }
        config.backend = BackendChoice::Cpu;
        assert!(!is_available(&config));
        config = ModelConfig { backend: BackendChoice::Openvino, ..ModelConfig::default() };
        assert!(wants_openvino(&config), "it is named");
    }

    #[test]
    fn the_parts_are_found_beside_and_where_packages_put_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("openvino-2025.1.0")).unwrap();
        let mut names = [
            "libopenvino.so.2510",
            "libopenvino_onnx_frontend.so.2510",
            "libtbb.so.12",
            "openvino-2025.1.0/libopenvino_intel_cpu_plugin.so",
        ];
        for name in names.iter().chain(&["libopenvino_c.so", "libtbb.so", "libother.so"]) {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let mut found = parts(&dir.path().join("libopenvino_c.so"));
        found.sort();
        names.sort_unstable();
        assert_eq!(found, names.map(|name| dir.path().join(name)));
    }
}
