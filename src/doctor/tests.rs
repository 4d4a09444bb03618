//! What is made of fixture boxes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod orin_nano;

use std::path::{Path, PathBuf};

use super::facts::Probed;
use super::runtime::{Runtime, Search};
use super::*;
use crate::config::BackendChoice;
use crate::infer::ProviderReport;
use crate::types::BackendKind;
use orin_nano::*;

/// Compares with the committed file, or writes it when `OCELLI_BLESS` is set.
fn check_file(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("OCELLI_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "{name} is not current: look at the difference, then run the test with OCELLI_BLESS=1\n{text}"
    );
}

fn of<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no check {id}"))
}

#[test]
fn the_report_is_as_the_golden_files_say() {
    let report = Report { ocelli: "0.0.0".into(), ..Report::new(judge(&orin_nano())) };
    check_file("tests/golden/doctor.json", &(serde_json::to_string_pretty(&report).unwrap() + "\n"));
    check_file("tests/golden/doctor.txt", &render(&report, 100, false));
    check_file("configs/doctor.schema.json", &format!("{:#}\n", schemars::schema_for!(Report).to_value()));
    assert!(!report.ok);
}

#[test]
fn a_colour_is_never_the_only_sign_and_every_finding_has_its_fix() {
    let report = Report::new(judge(&orin_nano()));
    let plain = render(&report, 100, false);
    let coloured = render(&report, 100, true);
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[31m✗"));
    assert!(plain.lines().all(|line| line.chars().count() <= 100 || line.trim().split(' ').count() <= 2), "{plain}");
    for check in &report.checks {
        let finding = matches!(check.status, Status::Warning | Status::Failed);
        assert_eq!(check.fix.is_some(), finding, "{check:?}");
        assert!(!check.detail.is_empty());
    }
    let mut ids: Vec<&str> = report.checks.iter().map(|check| check.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), report.checks.len(), "each id once");
}

#[test]
fn no_secret_is_shown_whatever_a_library_says() {
    let mut facts = orin_nano();
    facts.cameras[0].outcome = Probed::Yes(Err("could not open rtsp://admin:hunter2@10.0.0.5/stream1".into()));
    facts.broker.as_mut().unwrap().outcome = Some(Err("mqtts://ocelli:hunter2@broker.lan: no".into()));
    let report = Report::new(judge(&facts));
    assert!(!serde_json::to_string(&report).unwrap().contains("hunter2"));
    assert!(!render(&report, 100, true).contains("hunter2"));
}

#[test]
fn boards_are_distinguished() {
    let (_dir, root) = fixture(&ORIN_NANO);
    let jetson = board::board(&root).jetson.unwrap();
    assert_eq!((jetson.jetpack.as_deref(), jetson.l4t.as_deref()), (Some("6.2"), Some("36.4.3")));
    assert!(jetson.no_encoder);
    // Without NVIDIA's file, the version of its package counts.
    let (_dir, root) = fixture(&ORIN_NANO[1..]);
    assert_eq!(board::board(&root).jetson.unwrap().l4t.as_deref(), Some("36.4.3"));
    let nano: Vec<_> = ORIN_NANO.iter().filter(|(path, _)| !path.contains("dpkg")).copied().collect();
    let (_dir, root) = fixture(&nano);
    assert_eq!(board::board(&root).jetson.unwrap().jetpack.as_deref(), Some("6"));
    let (_dir, root) = fixture(&[("sys/class/dmi/id/product_name", "NUC\n"), ("etc/os-release", "ID=fedora\n")]);
    let board = board::board(&root);
    assert_eq!((board.model.as_deref(), board.debian, board.jetson), (Some("NUC"), false, None));
}

#[test]
fn an_old_and_an_invisible_jetpack_are_reported() {
    let mut facts = orin_nano();
    let jetson = facts.board.jetson.as_mut().unwrap();
    jetson.l4t = Some("32.7.4".into());
    assert_eq!(of(&judge(&facts), "jetpack").status, Status::Failed);
    facts.board.jetson.as_mut().unwrap().l4t = None;
    facts.board.container = true;
    let checks = judge(&facts);
    assert!(of(&checks, "jetpack").fix.as_ref().unwrap().contains("--runtime nvidia"));
}

#[test]
fn a_service_folder_that_another_user_may_not_write_to_is_no_failure() {
    let mut facts = orin_nano();
    facts.folders[0].trouble = Some(system::FORBIDDEN.into());
    assert_eq!(of(&judge(&facts), "folder.state").status, Status::Failed, "the service itself");
    facts.devices.user = devices::User { name: "ada".into(), uid: 1000, gids: vec![1000] };
    assert_eq!(of(&judge(&facts), "folder.state").status, Status::Warning);
}

#[test]
fn a_wrong_clock_is_a_warning_and_with_tls_a_failure() {
    let mut facts = orin_nano();
    assert_eq!(of(&judge(&facts), "clock").status, Status::Ok);
    facts.clock.now = 100_000;
    assert_eq!(of(&judge(&facts), "clock").status, Status::Failed, "TLS checks dates");
    facts.scope.config.as_mut().unwrap().mqtt = None;
    let checks = judge(&facts);
    assert_eq!(of(&checks, "clock").status, Status::Warning);
    assert!(of(&checks, "clock").detail.contains("1970"));
    facts.clock = system::Clock { now: NOON, keeper: Some("systemd-timesyncd".into()), synchronised: Some(false) };
    assert_eq!(of(&judge(&facts), "clock").status, Status::Warning);
    facts.clock.keeper = None;
    assert_eq!(of(&judge(&facts), "clock").status, Status::Warning);
    facts.board.container = true;
    assert_eq!(of(&judge(&facts), "clock").status, Status::Ok, "the host keeps it");
}

#[test]
fn auto_takes_the_first_backend_that_runs_and_a_named_one_is_strict() {
    let mut facts = orin_nano();
    let line = |facts: &Facts| {
        let checks = judge(facts);
        (of(&checks, "backend").status, of(&checks, "backend").detail.clone())
    };
    let (status, detail) = line(&facts);
    assert_eq!(status, Status::Ok);
    assert!(detail.contains("gives cuda (ONNX Runtime 1.23.2), because tensorrt does not run"), "{detail}");

    facts.runtime =
        Ok(runtime(vec![provider(BackendKind::Cuda, Some("no"), &[]), provider(BackendKind::Cpu, None, &[])]));
    assert_eq!(line(&facts).0, Status::Warning, "a GPU that is idle");
    facts.gpu.clear();
    let (status, detail) = line(&facts);
    assert_eq!(status, Status::Ok);
    assert!(detail.ends_with("gives cpu (ONNX Runtime 1.23.2)"), "GPUs are not spoken of: {detail}");

    facts.scope.config.as_mut().unwrap().model.backend = BackendChoice::Cuda;
    let checks = judge(&facts);
    for id in ["backend", "provider.cuda", "gpu"] {
        assert_eq!(of(&checks, id).status, Status::Failed, "{id}");
    }
}

#[test]
fn a_provider_names_the_products_that_it_needs() {
    let mut facts = orin_nano();
    let missing = ["libcublasLt.so.12", "libcurand.so.10", "libcudnn.so.9", "libcudnn_ops.so.9"];
    facts.runtime = Ok(runtime(vec![provider(BackendKind::Cuda, Some("cuda: raw"), &missing)]));
    let checks = judge(&facts);
    let check = of(&checks, "provider.cuda");
    assert!(check.detail.contains("needs CUDA 12 and cuDNN 9: libcublasLt.so.12 and 3 more"), "{}", check.detail);
    let raw =
        "cuda: /src/provider_bridge.cc:15 Get() [ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: driver is too old";
    facts.runtime = Ok(runtime(vec![provider(BackendKind::Cuda, Some(raw), &[])]));
    let checks = judge(&facts);
    assert_eq!(of(&checks, "provider.cuda").detail, "CUDA failure 35: driver is too old");
    facts.runtime =
        Ok(runtime(vec![ProviderReport { present: false, ..provider(BackendKind::Cuda, Some("no"), &[]) }]));
    let checks = judge(&facts);
    assert!(of(&checks, "provider.cuda").detail.contains("is not beside the library"));
}

#[test]
fn without_any_library_auto_gives_tract_and_cpu_fails() {
    let mut facts = orin_nano();
    facts.gpu.clear();
    let none = Runtime { onnxruntime: Search::default(), ..runtime(Vec::new()) };
    facts.runtime = Ok(none);
    let checks = judge(&facts);
    assert_eq!(of(&checks, "onnxruntime").status, Status::Warning);
    assert!(of(&checks, "backend").detail.contains("gives tract (tract 0.23.9)"));
    facts.scope.config.as_mut().unwrap().model.backend = BackendChoice::Cpu;
    let checks = judge(&facts);
    assert_eq!((of(&checks, "onnxruntime").status, of(&checks, "backend").status), (Status::Failed, Status::Failed));
    facts.scope.config.as_mut().unwrap().model.backend = BackendChoice::Tract;
    let checks = judge(&facts);
    assert_eq!((of(&checks, "onnxruntime").status, of(&checks, "backend").status), (Status::Skipped, Status::Ok));
}

#[test]
fn openvino_is_reported_where_it_is_installed_or_configured() {
    let mut facts = orin_nano();
    facts.gpu.clear();
    facts.runtime = Ok(runtime(vec![provider(BackendKind::Cpu, None, &[])]));
    assert!(judge(&facts).iter().all(|check| check.id != "openvino"));
    let with = |facts: &mut Facts, outcome: Result<&str, &str>| {
        let tried = vec![("/opt/ov/libopenvino_c.so".into(), outcome.map(str::to_owned).map_err(str::to_owned))];
        facts.runtime.as_mut().unwrap().openvino.search.tried = tried;
    };
    with(&mut facts, Ok("2026.4.1"));
    let checks = judge(&facts);
    assert_eq!(of(&checks, "openvino").status, Status::Ok);
    assert!(of(&checks, "backend").detail.ends_with("`backend: auto` gives openvino (OpenVINO 2026.4.1)"));
    facts.runtime.as_mut().unwrap().openvino.refused = Some("this processor does not compute in bf16".into());
    let checks = judge(&facts);
    assert_eq!(of(&checks, "openvino").status, Status::Warning);
    assert!(of(&checks, "openvino").fix.as_ref().unwrap().contains("precision"));
    assert!(of(&checks, "openvino").detail.ends_with("libopenvino_c.so): this processor does not compute in bf16"));
    assert!(of(&checks, "backend").detail.contains("gives cpu (ONNX Runtime 1.23.2), because openvino does not run"));
    facts.runtime.as_mut().unwrap().openvino.refused = None;
    with(&mut facts, Err("it is truncated"));
    let checks = judge(&facts);
    assert_eq!(of(&checks, "openvino").status, Status::Warning);
    assert!(of(&checks, "openvino").detail.contains("/opt/ov/libopenvino_c.so: it is truncated"));
    assert!(of(&checks, "backend").detail.contains("gives cpu (ONNX Runtime 1.23.2), because openvino does not run"));
    facts.scope.config.as_mut().unwrap().model.backend = BackendChoice::Openvino;
    let checks = judge(&facts);
    assert_eq!((of(&checks, "openvino").status, of(&checks, "backend").status), (Status::Failed, Status::Failed));
    facts.runtime.as_mut().unwrap().openvino.search.tried.clear();
    assert!(of(&judge(&facts), "openvino").detail.contains("no library found"));

    facts.runtime.as_mut().unwrap().openvino.unknown = Some("no answer within 75 s".into());
    let checks = judge(&facts);
    assert_eq!(of(&checks, "openvino").status, Status::Failed);
    assert_eq!(of(&checks, "openvino").detail, "it cannot be checked: no answer within 75 s");
    facts.scope.config.as_mut().unwrap().model.backend = BackendChoice::Auto;
    let checks = judge(&facts);
    assert_eq!(of(&checks, "openvino").status, Status::Warning);
    assert!(of(&checks, "backend").detail.contains("because openvino cannot be checked"));
}

#[test]
fn what_is_not_used_does_not_fail() {
    let mut facts = orin_nano();
    let mut media = media();
    media.encoders.remove(1);
    for decoder in &mut media.source.codecs[0].decoders {
        decoder.trouble = Some("is not installed".into());
    }
    media.source.rtsp[0].installed = false;
    facts.media = Ok(media);
    let checks = judge(&facts);
    for id in ["encode.h264", "decode.h264", "input.rtsp"] {
        assert_eq!(of(&checks, id).status, Status::Failed, "{id}");
        assert!(of(&checks, id).fix.as_ref().unwrap().contains("apt-get install gstreamer1.0"), "{id}");
    }
    let config = facts.scope.config.as_mut().unwrap();
    config.rtsp = None;
    config.cameras.clear();
    let checks = judge(&facts);
    for id in ["encode.h264", "decode.h264", "input.rtsp"] {
        assert_eq!(of(&checks, id).status, Status::Skipped, "{id}");
    }
}

#[test]
fn a_plugin_that_does_not_load_differs_from_one_that_is_not_installed() {
    let mut facts = orin_nano();
    let mut media = media();
    media.encoders[1].trouble = Some("x264enc: not installed".into());
    media.broken.push("/usr/lib/gstreamer-1.0/libgstx264.so".into());
    facts.media = Ok(media);
    let checks = judge(&facts);
    assert!(of(&checks, "encode.h264").detail.contains("libgstx264.so does not load"));
    assert_eq!(of(&checks, "plugins").status, Status::Warning);
    facts.media = Err("looking at its plugins crashed with SIGSEGV".into());
    let checks = judge(&facts);
    assert!(of(&checks, "gstreamer").detail.contains("SIGSEGV"));
}

#[test]
fn a_wrong_configuration_is_one_finding_among_others() {
    let mut facts = orin_nano();
    facts.scope = Scope { errors: Some("ocelli.yaml:3:1: unknown key `camera`".into()), ..Scope::default() };
    facts.cameras.clear();
    facts.ports.clear();
    facts.broker = None;
    let checks = judge(&facts);
    assert_eq!(of(&checks, "config").status, Status::Failed);
    assert!(checks.iter().any(|check| check.id == "gstreamer"));
}

#[test]
fn groups_of_the_drop_in_count_for_the_service() {
    let mut files = ORIN_NANO.to_vec();
    files.push(("dev/nvmap", ""));
    files.push(("dev/nvgpu/igpu0/ctrl", ""));
    files.push(("dev/null", ""));
    let (_dir, root) = fixture(&files);
    let devices = devices::devices(&root);
    let paths: Vec<&str> = devices.nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["/dev/nvmap", "/dev/nvgpu/igpu0/ctrl"]);
    assert_eq!((devices.user.name.as_str(), devices.user.gids.as_slice()), ("ocelli", [998, 44].as_slice()));
    files.push(("etc/systemd/system/ocelli.service.d/devices.conf", "[Service]\nSupplementaryGroups=render video\n"));
    let (_dir, root) = fixture(&files);
    assert_eq!(devices::devices(&root).user.gids, [998, 44, 104]);
}

#[test]
fn nvidias_libraries_are_found_with_version_and_outcome() {
    let (dir, root) = fixture(&[("usr/local/cuda-12.6/lib64/libcudart.so.12", "x")]);
    let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let folder: PathBuf = dir.path().join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    std::fs::create_dir_all(&folder).unwrap();
    // A position-independent program is a shared object to the loader.
    std::fs::write(folder.join("libnvinfer.so.10.3.0"), &whole).unwrap();
    std::os::unix::fs::symlink("libnvinfer.so.10.3.0", folder.join("libnvinfer.so.10")).unwrap();
    std::fs::write(folder.join("libcudnn.so.9.3.0"), &whole[..whole.len() / 2]).unwrap();
    let found = libraries::libraries(&root);
    let tensorrt = found.tensorrt.unwrap();
    assert_eq!((tensorrt.version.as_deref(), tensorrt.trouble), (Some("10.3.0"), None));
    assert!(found.cudnn.unwrap().trouble.unwrap().contains("truncated"));
    assert!(found.cuda.unwrap().trouble.is_some());
    assert_eq!(found.driver, None);
}
