//! The model, and what would run it.

use std::path::PathBuf;

use super::listed;
use crate::config::BackendChoice;
use crate::doctor::check::{Check, Section, Status};
use crate::doctor::facts::Facts;
use crate::doctor::libraries::Library;
use crate::doctor::runtime::{Openvino, Runtime};
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
            let gpu = [BackendKind::Tensorrt, BackendKind::Cuda].into_iter();
            checks.extend(gpu.filter_map(|kind| provider(facts, runtime, kind)));
            checks.extend(openvino(facts, runtime));
            checks.push(backend(facts, runtime));
        }
        Err(late) => checks.push(
            check("onnxruntime", status(facts, BackendKind::Cpu), format!("its library gave {late}"))
                .named("ONNX Runtime")
                .fix("ocelli probe-runtime LIBRARY tries one by hand; is the disk that it lies on reachable?"),
        ),
    }
    checks
}

fn model(facts: &Facts) -> Check {
    match &facts.model {
        Ok(detail) => check("model", Status::Ok, detail.clone()),
        Err(reason) => check("model", Status::Failed, reason.clone())
            .fix("set `model.file` to an .onnx file or a model folder; `ocelli models verify` looks at it closely"),
    }
}

/// The backend is asked for by name, so that nothing may take its place.
fn named(facts: &Facts, kind: BackendKind) -> bool {
    infer::backend(kind).choice == facts.scope.backend()
}

/// How bad it is when `kind` does not run.
fn status(facts: &Facts, kind: BackendKind) -> Status {
    if named(facts, kind) { Status::Failed } else { Status::Warning }
}

fn wants_gpu(facts: &Facts) -> bool {
    named(facts, BackendKind::Cuda) || named(facts, BackendKind::Tensorrt)
}

fn nvidia(facts: &Facts) -> Vec<Check> {
    if facts.gpu.is_empty() {
        let id = |status, detail: &str| check("gpu", status, detail).named("GPU");
        return vec![match wants_gpu(facts) {
            true => id(Status::Failed, "no device of an NVIDIA GPU here, but the configuration asks for one")
                .fix("install NVIDIA's driver (nvidia-smi, or on a Jetson tegrastats, must see the GPU), or set `model.backend: auto`"),
            false => id(Status::Skipped, "no NVIDIA GPU: CUDA, cuDNN and TensorRT are not looked for"),
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
                check("cuda", Status::Warning, format!("looking for its libraries gave {late}"))
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

/// The driver has two halves: device nodes from the kernel's, and a library.
fn driver(facts: &Facts, library: Option<&Library>, nodes: &str) -> Check {
    let id = |status, detail: String| check("gpu", status, detail).named("GPU");
    let worst = if wants_gpu(facts) { Status::Failed } else { Status::Warning };
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

fn library(facts: &Facts, runtime: &Runtime) -> Check {
    let id = |status, detail: String| check("onnxruntime", status, detail).named("ONNX Runtime");
    let by = match runtime.source {
        LibrarySource::Config => ", named by model.ort_library",
        LibrarySource::Environment => ", named by ORT_DYLIB_PATH",
        LibrarySource::Usual => "",
    };
    let broken = broken(&runtime.tried);
    if let Some((path, version)) = runtime.library() {
        let detail = format!("{version} ({}{by})", path.display());
        return match broken.is_empty() {
            true => id(Status::Ok, detail),
            false => id(Status::Warning, format!("{detail}; passed over: {}", broken.join("; ")))
                .fix("remove the libraries that do not work, or name the right one in `model.ort_library`"),
        };
    }
    let choice = facts.scope.backend();
    let without = matches!(choice, BackendChoice::Tract | BackendChoice::Openvino);
    let install = format!(
        "install ONNX Runtime {} or newer for {} and name its libonnxruntime.so in `model.ort_library`",
        ONNX_RUNTIME.oldest, facts.board.arch
    );
    match broken.is_empty() {
        true if without => id(Status::Skipped, format!("none, and `backend: {}` needs none", word(choice))),
        true => id(any(facts), "no library found in the usual places".into()).fix(install),
        false => id(any(facts), format!("{}{by}", broken.join("; "))).fix(install),
    }
}

fn broken(tried: &[(PathBuf, Result<String, String>)]) -> Vec<String> {
    tried
        .iter()
        .filter_map(|(path, verdict)| Some(format!("{}: {}", path.display(), verdict.as_ref().err()?)))
        .collect()
}

fn word(choice: BackendChoice) -> String {
    format!("{choice:?}").to_lowercase()
}

/// OpenVINO; nothing where nobody would expect it.
fn openvino(facts: &Facts, runtime: &Runtime) -> Option<Check> {
    let id = |status, detail: String| check("openvino", status, detail).named("OpenVINO");
    let Openvino { source, tried, refused, silent } = &runtime.openvino;
    if let Some(why) = silent {
        return Some(
            id(status(facts, BackendKind::Openvino), format!("it could not be looked at: {why}"))
                .fix("run `ocelli doctor` once more; `model.backend: cpu` does without OpenVINO"),
        );
    }
    let named = named(facts, BackendKind::Openvino);
    if tried.is_empty() && !named {
        return None;
    }
    let by = match source {
        LibrarySource::Config => ", named by model.openvino.library",
        LibrarySource::Environment => ", named by OPENVINO_INSTALL_DIR or INTEL_OPENVINO_DIR",
        LibrarySource::Usual => "",
    };
    if let Some((path, version)) = runtime.openvino.library() {
        let detail = format!("{version} ({}{by})", path.display());
        return Some(match refused {
            None => id(Status::Ok, detail),
            Some(reason) => id(status(facts, BackendKind::Openvino), format!("{detail}: {reason}")),
        });
    }
    let detail = match tried.is_empty() {
        true => "no library found in the usual places".to_owned(),
        false => format!("{}{by}", broken(tried).join("; ")),
    };
    let fix = format!(
        "install OpenVINO {} or newer for {} and name its libopenvino_c.so in `model.openvino.library`, \
         its other libraries beside it",
        OPENVINO.oldest, facts.board.arch
    );
    Some(id(status(facts, BackendKind::Openvino), detail).fix(fix))
}

/// How bad it is when no backend of ONNX Runtime runs.
fn any(facts: &Facts) -> Status {
    match facts.scope.backend() {
        BackendChoice::Auto | BackendChoice::Tract | BackendChoice::Openvino => Status::Warning,
        _ => Status::Failed,
    }
}

/// The check of a GPU provider; none where nobody would expect it.
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
            "install {needs}, or take an ONNX Runtime that was built for what is here; libraries in a place of their own: \
             add it to /etc/ld.so.conf.d, then sudo ldconfig"
        );
        return (format!("{file} needs {needs}: {names}"), fix);
    }
    // ONNX Runtime puts the place in its own source in front of the reason.
    let reason = error.rsplit_once("[ONNXRuntimeError] : ").map_or(error, |(_, reason)| reason);
    let reason = reason.split_once(" : FAIL : ").map_or(reason, |(_, reason)| reason);
    let reason = reason.strip_prefix(&format!("{}: ", report.kind)).unwrap_or(reason);
    let fix = "check that driver, CUDA, cuDNN and TensorRT are of the versions that this ONNX Runtime was built for";
    (reason.to_owned(), fix.into())
}

/// NVIDIA's products that libraries belong to, with the version in their names: `CUDA 12`, `cuDNN 9`.
fn products(libraries: &[String]) -> Vec<String> {
    let of = |library: &String| {
        let (name, version) = library.split_once(".so.")?;
        match name {
            _ if name.starts_with("libcudnn") => Some(format!("cuDNN {version}")),
            _ if name.starts_with("libnvinfer") || name == "libnvonnxparser" => Some(format!("TensorRT {version}")),
            // These count as CUDA does; others of its libraries count for themselves.
            "libcublas" | "libcublasLt" | "libcudart" | "libnvrtc" => Some(format!("CUDA {version}")),
            _ => None,
        }
    };
    let mut products: Vec<String> = libraries.iter().filter_map(of).collect();
    products.sort();
    products.dedup();
    products
}

/// What `backend:` gives here: the first rung of the service's own ladder whose probe went well.
fn backend(facts: &Facts, runtime: &Runtime) -> Check {
    let choice = facts.scope.backend();
    let asked = word(choice);
    let openvino = !runtime.openvino.tried.is_empty() || runtime.openvino.silent.is_some();
    let order = infer::fallback_order(choice, Machine { gpu: !facts.gpu.is_empty(), openvino });
    let mut passed_over = Vec::new();
    for &kind in &order {
        match verdict(runtime, kind) {
            Ok(version) => {
                let detail = format!("`backend: {asked}` gives {kind} ({version})");
                if passed_over.is_empty() {
                    return check("backend", Status::Ok, detail);
                }
                let detail = format!("{detail}, because {}", passed_over.join("; "));
                let slow = !facts.gpu.is_empty() && infer::backend(kind).device == Device::Cpu;
                // Without a GPU, what is lost is small, and the line of ONNX Runtime has said it.
                return match slow {
                    true => check("backend", Status::Warning, format!("{detail}: the GPU is idle")).fix(
                        "mend what the lines above name; `backend: cuda` makes the service refuse to start without it",
                    ),
                    false => check("backend", Status::Ok, detail),
                };
            }
            Err(reason) => passed_over.push(format!("{kind} {reason}")),
        }
    }
    let reasons = match order.as_slice() {
        // One that is named: its name has been said.
        [kind] => passed_over.concat().replacen(&kind.to_string(), "", 1),
        _ => format!(" gives nothing that runs: {}", passed_over.join("; ")),
    };
    check("backend", Status::Failed, format!("`backend: {asked}`{reasons}"))
        .fix("mend what the lines above name, or set `model.backend: auto`")
}

fn verdict(runtime: &Runtime, kind: BackendKind) -> Result<String, String> {
    if kind == BackendKind::Tract {
        return runtime.tract.clone().ok_or_else(|| "is not part of this build".into());
    }
    if kind == BackendKind::Openvino {
        if runtime.openvino.silent.is_some() {
            return Err("could not be looked at".into());
        }
        let usable = runtime.openvino.library().filter(|_| runtime.openvino.refused.is_none());
        let (_, version) = usable.ok_or("does not run")?;
        return Ok(format!("OpenVINO {version}"));
    }
    let (_, version) = runtime.library().ok_or("has no ONNX Runtime")?;
    match runtime.provider(kind) {
        Some(ProviderReport { error: None, .. }) => Ok(format!("ONNX Runtime {version}")),
        Some(_) => Err("does not run".into()),
        None => Err("was not tried".into()),
    }
}
