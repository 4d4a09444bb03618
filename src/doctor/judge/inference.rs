//! The model, and the backends that can run it.

use super::listed;
use crate::doctor::check::{Check, Section, Status};
use crate::doctor::facts::Facts;
use crate::doctor::libraries::Library;
use crate::doctor::runtime::{Openvino, Runtime, Search};
use crate::infer::{self, Device, LibrarySource, Machine, ONNX_RUNTIME, OPENVINO, ProviderReport};
use crate::types::BackendKind;

fn check(id: impl Into<String>, status: Status, detail: impl Into<String>) -> Check {
    Check::new(Section::Inference, id, status, detail)
}

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![model(facts)];
    checks.extend(nvidia(facts));
    match &facts.runtime {
        Ok(runtime) => {
            checks.push(library(facts, runtime));
            let gpu = infer::backends().iter().filter(|backend| backend.device == Device::Gpu);
            checks.extend(gpu.filter_map(|backend| provider(facts, runtime, backend.kind)));
            checks.extend(openvino(facts, runtime));
            checks.push(backend(facts, runtime));
        }
        Err(late) => checks.push(
            check("onnxruntime", status(facts, BackendKind::Cpu), format!("its library cannot be checked: {late}"))
                .named("ONNX Runtime")
                .fix("`ocelli probe-runtime LIBRARY` checks one library; is its disk reachable?"),
        ),
    }
    checks
}

fn model(facts: &Facts) -> Check {
    match &facts.model {
        Ok(detail) => check("model", Status::Ok, detail.clone()),
        Err(reason) => check("model", Status::Failed, reason.clone())
            .fix("set `model.file` to an .onnx file or a model folder; `ocelli models verify` checks it thoroughly"),
    }
}

/// Whether the configuration names this backend, so that no other may replace it.
fn named(facts: &Facts, kind: BackendKind) -> bool {
    infer::backend(kind).choice == facts.scope.backend()
}

/// The status when `kind` does not run.
fn status(facts: &Facts, kind: BackendKind) -> Status {
    if named(facts, kind) { Status::Failed } else { Status::Warning }
}

fn nvidia(facts: &Facts) -> Vec<Check> {
    if facts.gpu.is_empty() {
        let id = |status, detail: &str| check("gpu", status, detail).named("GPU");
        return vec![match facts.scope.wants_gpu() {
            true => id(Status::Failed, "no device of an NVIDIA GPU here, but the configuration asks for one")
                .fix("install NVIDIA's driver (nvidia-smi, or on a Jetson tegrastats, must see the GPU), or set `model.backend: auto`"),
            false => id(Status::Skipped, "no NVIDIA GPU: CUDA, cuDNN and TensorRT are not checked"),
        }];
    }
    let nodes = facts.gpu.join(", ");
    let mut checks = Vec::new();
    let libraries = match &facts.libraries {
        Ok(libraries) => {
            checks.push(driver(facts, libraries.driver.as_ref(), &nodes));
            libraries
        }
        Err(late) => {
            checks.push(
                check("cuda", Status::Warning, format!("its libraries cannot be listed: {late}"))
                    .named("CUDA")
                    .fix("is a network disk mounted below /usr or in LD_LIBRARY_PATH?"),
            );
            return checks;
        }
    };
    let jetson = facts.board.jetson.is_some();
    let packages = |jetson_name: &str, other: &str| match jetson {
        true => format!("sudo apt-get install {jetson_name}"),
        false => other.to_owned(),
    };
    let cuda = packages("nvidia-jetpack", "install CUDA of the version that your ONNX Runtime was built for");
    let cudnn = packages("nvidia-cudnn", "install cuDNN of the version that your ONNX Runtime was built for");
    let tensorrt = packages("nvidia-tensorrt", "install TensorRT; without it, CUDA runs the model");
    checks.push(vendor(facts, "cuda", "CUDA", BackendKind::Cuda, libraries.cuda.as_ref(), cuda));
    checks.push(vendor(facts, "cudnn", "cuDNN", BackendKind::Cuda, libraries.cudnn.as_ref(), cudnn));
    checks.push(vendor(facts, "tensorrt", "TensorRT", BackendKind::Tensorrt, libraries.tensorrt.as_ref(), tensorrt));
    checks
}

/// The driver consists of device nodes and a library.
fn driver(facts: &Facts, library: Option<&Library>, nodes: &str) -> Check {
    let id = |status, detail: String| check("gpu", status, detail).named("GPU");
    let worst = if facts.scope.wants_gpu() { Status::Failed } else { Status::Warning };
    let fix = match facts.board.container {
        true => "start the container with `--runtime nvidia` or `--gpus all`",
        false => {
            "install the driver's libraries: nvidia-l4t-cuda on a Jetson, else the package of your driver's version"
        }
    };
    match library {
        Some(Library { path, trouble: None, .. }) => id(Status::Ok, format!("NVIDIA ({nodes}; {})", path.display())),
        Some(Library { path, trouble: Some(trouble), .. }) => {
            id(worst, format!("{}: {trouble}", path.display())).fix(fix)
        }
        None => id(worst, format!("NVIDIA ({nodes}), but the driver's library libcuda.so.1 is not found")).fix(fix),
    }
}

fn vendor(facts: &Facts, id: &str, name: &str, kind: BackendKind, library: Option<&Library>, fix: String) -> Check {
    let check = match library {
        Some(Library { path, version, trouble: None }) => {
            let version = version.as_deref().unwrap_or("of unknown version");
            check(id, Status::Ok, format!("{version} ({})", path.display()))
        }
        Some(Library { path, trouble: Some(trouble), .. }) => {
            check(id, status(facts, kind), format!("{}: {trouble}", path.display())).fix(fix)
        }
        None => check(id, status(facts, kind), "its library is not found").fix(fix),
    };
    check.named(name)
}

/// `named` has the key and the variables that name a library.
fn describe(search: &Search, named: [&str; 2]) -> Result<String, String> {
    let by = match search.source {
        LibrarySource::Config => format!(", named by {}", named[0]),
        LibrarySource::Environment => format!(", named by {}", named[1]),
        LibrarySource::Usual => String::new(),
    };
    match (search.library(), search.broken()) {
        (Some((path, version)), _) => Ok(format!("{version} ({}{by})", path.display())),
        (None, broken) if broken.is_empty() => Err("no library found in the usual places".into()),
        (None, broken) => Err(format!("{}{by}", broken.join("; "))),
    }
}

fn library(facts: &Facts, runtime: &Runtime) -> Check {
    let id = |status, detail: String| check("onnxruntime", status, detail).named("ONNX Runtime");
    let search = &runtime.onnxruntime;
    let choice = facts.scope.backend();
    // `auto` can do without it.
    let needed = infer::named_backend(choice).map(|b| b.runtime.is_some_and(|own| own.name == ONNX_RUNTIME.name));
    match describe(search, ["model.ort_library", "ORT_DYLIB_PATH"]) {
        Ok(detail) if search.broken().is_empty() => id(Status::Ok, detail),
        Ok(detail) => id(Status::Warning, format!("{detail}; these do not work: {}", search.broken().join("; ")))
            .fix("remove the libraries that do not work, or name the right one in `model.ort_library`"),
        Err(_) if search.tried.is_empty() && needed == Some(false) => {
            id(Status::Skipped, format!("none, and `backend: {}` needs none", choice.as_str()))
        }
        Err(detail) => id(if needed == Some(true) { Status::Failed } else { Status::Warning }, detail).fix(format!(
            "install ONNX Runtime {} or newer for {} and name its libonnxruntime.so in `model.ort_library`",
            ONNX_RUNTIME.oldest, facts.board.arch
        )),
    }
}

/// `None` where OpenVINO is neither installed nor configured.
fn openvino(facts: &Facts, runtime: &Runtime) -> Option<Check> {
    let id = |status, detail: String| check("openvino", status, detail).named("OpenVINO");
    let Openvino { search, refused, unknown } = &runtime.openvino;
    let failed = status(facts, BackendKind::Openvino);
    if let Some(why) = unknown {
        let fix = "run `ocelli doctor` once more; `model.backend: cpu` does without OpenVINO";
        return Some(id(failed, format!("it cannot be checked: {why}")).fix(fix));
    }
    if search.tried.is_empty() && !named(facts, BackendKind::Openvino) {
        return None;
    }
    let names = ["model.openvino.library", "OPENVINO_INSTALL_DIR or INTEL_OPENVINO_DIR"];
    Some(match (describe(search, names), refused) {
        (Ok(detail), None) => id(Status::Ok, detail),
        (Ok(detail), Some(reason)) => id(failed, format!("{detail}: {reason}"))
            .fix("set `model.openvino.precision: f32`, or another precision that this processor computes in"),
        (Err(detail), _) => id(failed, detail).fix(format!(
            "install OpenVINO {} or newer for {} and name its libopenvino_c.so in `model.openvino.library`, \
             its other libraries beside it",
            OPENVINO.oldest, facts.board.arch
        )),
    })
}

/// `None` where the GPU provider was not tried.
fn provider(facts: &Facts, runtime: &Runtime, kind: BackendKind) -> Option<Check> {
    let name = if kind == BackendKind::Cuda { "CUDA provider" } else { "TensorRT provider" };
    let id = |status, detail: String| check(format!("provider.{kind}"), status, detail).named(name);
    let report = runtime.provider(kind)?;
    let expected = !facts.gpu.is_empty() || named(facts, kind);
    Some(match &report.error {
        None => id(Status::Ok, "ran a small model".into()),
        Some(_) if !expected => id(Status::Skipped, "its library is there, but no NVIDIA GPU".into()),
        Some(error) => {
            let (detail, fix) = refusal(facts, report, error);
            id(status(facts, kind), detail).fix(fix)
        }
    })
}

fn refusal(facts: &Facts, report: &ProviderReport, error: &str) -> (String, String) {
    let file = report.library.as_ref().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
    if !report.present {
        let fix = match facts.board.jetson.is_some() {
            true => {
                "take an ONNX Runtime built for this JetPack (onnxruntime-gpu of the Jetson wheels), with its providers beside it"
            }
            false => "take the GPU build of ONNX Runtime, and leave its libonnxruntime_providers_*.so beside it",
        };
        return (format!("{file} is not beside the library: this ONNX Runtime is built without it"), fix.into());
    }
    if !report.missing.is_empty() {
        let products = products(&report.missing);
        let needs = if products.is_empty() { "more libraries".to_owned() } else { listed(&products) };
        let first = &report.missing[0];
        let names = match report.missing.len() {
            1 => format!("{first} is not found"),
            2 => format!("{} are not found", listed(&report.missing)),
            count => format!("{first} and {} more are not found", count - 1),
        };
        let fix = format!(
            "install {needs}, or use an ONNX Runtime that was built for the installed versions; if the libraries are in a folder of their own, \
             add it to /etc/ld.so.conf.d, then sudo ldconfig"
        );
        return (format!("{file} needs {needs}: {names}"), fix);
    }
    // ONNX Runtime prefixes the reason with a place in its source code.
    let reason = error.rsplit_once("[ONNXRuntimeError] : ").map_or(error, |(_, reason)| reason);
    let reason = reason.split_once(" : FAIL : ").map_or(reason, |(_, reason)| reason);
    let reason = reason.strip_prefix(&format!("{}: ", report.kind)).unwrap_or(reason);
    let fix = "check that driver, CUDA, cuDNN and TensorRT are of the versions that this ONNX Runtime was built for";
    (reason.to_owned(), fix.into())
}

/// The NVIDIA products of these libraries, with the version in the file name: `CUDA 12`, `cuDNN 9`.
fn products(libraries: &[String]) -> Vec<String> {
    let of = |library: &String| {
        let (name, version) = library.split_once(".so.")?;
        match name {
            _ if name.starts_with("libcudnn") => Some(format!("cuDNN {version}")),
            _ if name.starts_with("libnvinfer") || name == "libnvonnxparser" => Some(format!("TensorRT {version}")),
            // Versioned as CUDA; its other libraries have versions of their own.
            "libcublas" | "libcublasLt" | "libcudart" | "libnvrtc" => Some(format!("CUDA {version}")),
            _ => None,
        }
    };
    let mut products: Vec<String> = libraries.iter().filter_map(of).collect();
    products.sort();
    products.dedup();
    products
}

/// The backend that `backend:` gives here: the first of the service's fallback order whose probe succeeds.
fn backend(facts: &Facts, runtime: &Runtime) -> Check {
    let choice = facts.scope.backend();
    let asked = choice.as_str();
    let openvino = !runtime.openvino.search.tried.is_empty() || runtime.openvino.unknown.is_some();
    let order = infer::fallback_order(choice, Machine { gpu: !facts.gpu.is_empty(), openvino });
    let mut failures = Vec::new();
    for &kind in &order {
        match probed(runtime, kind) {
            Ok(version) => {
                let detail = format!("`backend: {asked}` gives {kind} ({version})");
                if failures.is_empty() {
                    return check("backend", Status::Ok, detail);
                }
                let detail = format!("{detail}, because {}", failures.join("; "));
                let slow = !facts.gpu.is_empty() && infer::backend(kind).device == Device::Cpu;
                // Without a GPU the loss is small, and the line of ONNX Runtime names it.
                return match slow {
                    true => check("backend", Status::Warning, format!("{detail}: the GPU is idle")).fix(
                        "fix what the lines above name; `backend: cuda` makes the service refuse to start without it",
                    ),
                    false => check("backend", Status::Ok, detail),
                };
            }
            Err(reason) => failures.push(format!("{kind} {reason}")),
        }
    }
    let reasons = match order.as_slice() {
        // A named backend: its name is in the sentence already.
        [kind] => failures.concat().replacen(&kind.to_string(), "", 1),
        _ => format!(" gives nothing that runs: {}", failures.join("; ")),
    };
    check("backend", Status::Failed, format!("`backend: {asked}`{reasons}"))
        .fix("fix what the lines above name, or set `model.backend: auto`")
}

/// The version of a backend that runs, or why it does not.
fn probed(runtime: &Runtime, kind: BackendKind) -> Result<String, String> {
    let Some(library) = infer::backend(kind).runtime else {
        return runtime.tract.clone().ok_or_else(|| "is not part of this build".into());
    };
    if library.name == OPENVINO.name {
        if runtime.openvino.unknown.is_some() {
            return Err("cannot be checked".into());
        }
        let usable = runtime.openvino.search.library().filter(|_| runtime.openvino.refused.is_none());
        let (_, version) = usable.ok_or("does not run")?;
        return Ok(format!("OpenVINO {version}"));
    }
    let (_, version) = runtime.onnxruntime.library().ok_or("has no ONNX Runtime")?;
    match runtime.provider(kind) {
        Some(ProviderReport { error: None, .. }) => Ok(format!("ONNX Runtime {version}")),
        Some(_) => Err("does not run".into()),
        None => Err("was not tried".into()),
    }
}
