//! `ocelli doctor` on broken machines: the report of the real binary.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Guard, free_port, ocelli};

/// A configuration must have a camera; this one is not asked for a picture.
const OFF: &str = "cameras: {off: {url: 'rtsp://127.0.0.1/', enabled: false}}\n";

/// A doctor in a folder of its own, so that no configuration of this machine is in its way.
struct Doctor {
    folder: tempfile::TempDir,
    command: Command,
}

impl Doctor {
    fn new() -> Self {
        Self::by(ocelli())
    }

    fn by(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        command.current_dir(folder.path()).stdin(Stdio::null());
        for variable in ["ORT_DYLIB_PATH", "STATE_DIRECTORY", "CACHE_DIRECTORY", "CREDENTIALS_DIRECTORY"] {
            command.env_remove(variable);
        }
        command.env("OCELLI_MODEL", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx"));
        Self { folder, command }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file below the doctor's folder.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// `doctor --json`; its exit code must match the report.
    fn report(mut self) -> Report {
        let output = self.command.args(["doctor", "--json"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let ok = value["ok"].as_bool().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!ok)), "{text}");
        assert_eq!(ok, value["checks"].as_array().unwrap().iter().all(|check| check["status"] != "failed"), "{text}");
        Report(value)
    }

    fn configured(self, text: &str) -> Report {
        self.file("ocelli.yaml", text);
        self.report()
    }
}

#[derive(Debug)]
struct Report(Value);

impl Report {
    fn check(&self, id: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id} in {:#}", self.0))
    }

    fn has(&self, id: &str) -> bool {
        self.0["checks"].as_array().unwrap().iter().any(|check| check["id"] == id)
    }

    /// The check went so, and its sentence or its fix has all the words.
    fn says(&self, id: &str, status: &str, words: &[&str]) {
        let check = self.check(id);
        assert_eq!(check["status"], status, "{check:#}");
        let text = format!("{} {}", check["detail"].as_str().unwrap(), check["fix"].as_str().unwrap_or_default());
        for word in words {
            assert!(text.contains(word), "{check:#} does not speak of {word}");
        }
    }
}

fn test_box_is_fine(report: &Report) {
    for id in ["model", "backend", "gstreamer", "input.rtsp", "decode.h264", "encode.h264", "output.rtsp"] {
        report.says(id, "ok", &[]);
    }
}

#[test]
fn a_machine_without_configuration_is_examined() {
    let report = Doctor::new().report();
    test_box_is_fine(&report);
    report.says("config", "skipped", &["./ocelli.yaml"]);
    assert!(!report.has("broker") && !report.has("port.rtsp"));
}

#[test]
fn the_text_has_a_fix_under_every_finding_and_no_colour_in_a_pipe() {
    let mut doctor = Doctor::new().env("STATE_DIRECTORY", "/nowhere/ocelli");
    let output = doctor.command.arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains('\x1b'), "{text}");
    assert!(
        text.contains("/nowhere/ocelli: does not exist") && text.contains("→ sudo install -d /nowhere/ocelli"),
        "{text}"
    );
    let count = |sign: &str| text.lines().filter(|line| line.trim_start().starts_with(sign)).count();
    assert_eq!(count("✗") + count("⚠"), count("→"), "{text}");
    assert!(text.trim_end().lines().last().unwrap().contains("1 problem"), "{text}");
}

#[test]
fn missing_plugins_are_reported_with_the_packages_to_install() {
    let doctor = Doctor::new();
    let (empty, registry) = (doctor.path("none"), doctor.path("registry"));
    std::fs::create_dir(&empty).unwrap();
    let report = doctor
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", &empty)
        .env("GST_PLUGIN_PATH_1_0", &empty)
        .env("GST_REGISTRY_1_0", registry)
        .report();
    report.says("gstreamer", "ok", &["1."]);
    report.says("input.rtsp", "failed", &["rtspsrc is not installed", "gstreamer1.0-plugins-good"]);
    report.says("decode.h264", "failed", &["h264parse", "gstreamer1.0-plugins-bad"]);
    report.says(
        "encode.h264",
        "failed",
        &["x264enc: needs videoscale", "gstreamer1.0-plugins-base gstreamer1.0-plugins-ugly"],
    );
}

#[test]
fn a_plugin_that_does_not_load_is_named() {
    let Ok(output) = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output() else {
        crate::common::skip("no pkg-config to say where the plugins are");
        return;
    };
    let real = String::from_utf8(output.stdout).unwrap();
    let doctor = Doctor::new();
    let plugins = doctor.path("plugins");
    std::fs::create_dir(&plugins).unwrap();
    for entry in std::fs::read_dir(real.trim()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if name == "libgstx264.so" || name == "libgstopenh264.so" {
            doctor.file(&format!("plugins/{}", name.to_str().unwrap()), "no library");
        } else {
            std::os::unix::fs::symlink(&path, plugins.join(name)).unwrap();
        }
    }
    doctor.file("plugins/libgstx264.so", "no library");
    let registry = doctor.path("registry");
    let report = doctor
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", &plugins)
        .env("GST_PLUGIN_PATH_1_0", "")
        .env("GST_REGISTRY_1_0", registry)
        .report();
    report.says("plugins", "warning", &["libgstx264.so", "ldd"]);
    report.says("encode.h264", "failed", &["libgstx264.so does not load"]);
    report.says("decode.h264", "ok", &["avdec_h264"]);
}

#[test]
fn a_truncated_or_foreign_library_is_reported_and_auto_falls_back() {
    let whole = std::fs::read(env!("CARGO_BIN_EXE_ocelli")).unwrap();
    let mut other = whole[..whole.len().min(100_000)].to_vec();
    other[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    for (bytes, word) in [(&whole[..whole.len() / 2], "truncated"), (&other, "built for")] {
        let doctor = Doctor::new();
        let library = doctor.file("libonnxruntime.so", bytes);
        let report = doctor.env("ORT_DYLIB_PATH", &library).report();
        report.says("onnxruntime", "warning", &[word, "ORT_DYLIB_PATH", "1.17"]);
        report.says("backend", "ok", &["gives tract", "cpu has no ONNX Runtime"]);

        let doctor = Doctor::new();
        let library = doctor.file("libonnxruntime.so", bytes).display().to_string();
        let report = doctor.configured(&format!("model: {{backend: cpu, ort_library: '{library}'}}\n{OFF}"));
        report.says("onnxruntime", "failed", &[word, "model.ort_library"]);
        report.says("backend", "failed", &["`backend: cpu` has no ONNX Runtime"]);
    }
}

#[test]
fn a_working_library_and_its_providers_are_reported() {
    let Some(library) = crate::runtime::ort_library() else { return };
    let report = Doctor::new().env("ORT_DYLIB_PATH", &library).report();
    report.says("onnxruntime", "ok", &["1.", "ORT_DYLIB_PATH"]);
    report.says("backend", "ok", &["`backend: auto` gives"]);
    if Path::new("/dev/nvidiactl").exists() {
        crate::common::skip("this machine has a GPU; the report of one without is not checked");
        return;
    }
    report.says("gpu", "skipped", &[]);
    let text = format!("model: {{backend: cuda, ort_library: '{}'}}\n{OFF}", library.display());
    let report = Doctor::new().configured(&text);
    report.says("gpu", "failed", &["driver"]);
    report.says("provider.cuda", "failed", &["libonnxruntime_providers_cuda.so is not beside", "GPU build"]);
    report.says("backend", "failed", &["`backend: cuda` does not run"]);
}

#[test]
fn a_library_that_hangs_times_out() {
    let doctor = Doctor::new();
    let code = "#include <unistd.h>\n__attribute__((constructor)) static void hang(void) { for (;;) pause(); }\n";
    let (source, library) = (doctor.file("hang.c", code), doctor.path("libonnxruntime.so"));
    match Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => return crate::common::skip(&format!("no C compiler ({error})")),
    }
    let report = doctor.env("ORT_DYLIB_PATH", &library).report();
    report.says("onnxruntime", "warning", &["did not end within 10 s"]);
    test_box_is_fine(&report);
}

/// A fixture of a box with a GPU whose node belongs to a group that the user is not in.
fn shut_box(doctor: &Doctor) -> String {
    use std::os::unix::fs::PermissionsExt;
    let node = doctor.file("box/dev/nvmap", "");
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o660)).unwrap();
    // As root the fixture can be more like a box; else the group is that of whoever runs the tests.
    let _ = std::os::unix::fs::chown(&node, None, Some(44));
    let gid = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&node).unwrap());
    doctor.file("box/etc/passwd", "camuser:x:4242:4242::/:/bin/sh\n");
    doctor.file("box/etc/group", format!("video:x:{gid}:\n"));
    doctor.file("box/proc/self/status", "Uid:\t4242\t4242\t4242\t4242\nGid:\t4242\t4242\t4242\t4242\nGroups:\t4242\n");
    doctor.path("box").display().to_string()
}

#[test]
fn a_closed_device_names_the_group_that_opens_it() {
    let doctor = Doctor::new();
    let root = shut_box(&doctor);
    doctor.file("ocelli.yaml", "model: {backend: cuda}\ncameras: {off: {url: 'rtsp://127.0.0.1/', enabled: false}}\n");
    let mut doctor = doctor;
    let output = doctor.command.args(["doctor", "--json", "--root", &root]).output().unwrap();
    let report = Report(serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!(output.status.code(), Some(1));
    report.says("devices", "failed", &["/dev/nvmap", "closed to camuser", "usermod -aG video camuser"]);
    report.says("gpu", "failed", &["/dev/nvmap", "libcuda.so.1"]);
    report.says("cuda", "failed", &["not found"]);
    report.says("clock", "warning", &["timedatectl"]);
}

#[test]
fn a_full_and_a_read_only_state_folder_are_distinguished() {
    for (options, words) in [("size=4k", ["the disk is full", "make room"]), ("ro", ["read-only", "findmnt"])] {
        let state = tempfile::tempdir().unwrap();
        let mount = format!("mount -t tmpfs -o {options} tmpfs {} && exec \"$0\" \"$@\"", state.path().display());
        let probe = Command::new("unshare").args(["-rm", "sh", "-c", &mount, "true"]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            crate::common::skip(
                "no mount in a namespace of our own (unshare -rm): full and read-only disks are not tried",
            );
            return;
        }
        let doctor =
            Doctor::by(Command::new("unshare")).args(&["-rm", "sh", "-c", &mount, env!("CARGO_BIN_EXE_ocelli")]);
        let report = doctor.env("STATE_DIRECTORY", state.path()).report();
        report.says("folder.state", "failed", &words);
        test_box_is_fine(&report);
    }
}

#[test]
fn a_taken_port_names_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let report =
        Doctor::new().configured(&format!("rtsp: {{listen: '{taken}'}}\nhttp: {{listen: '127.0.0.1:0'}}\n{OFF}"));
    report.says("port.rtsp", "failed", &[&taken.to_string(), &std::process::id().to_string(), "rtsp.listen"]);
    report.says("port.http", "ok", &[]);
}

#[test]
fn a_broker_is_connected_to_with_the_credentials_and_no_secret_is_shown() {
    let absent = free_port();
    let text = |port: u16| {
        format!("mqtt: {{url: 'mqtt://127.0.0.1:{port}', username: ocelli, password: '${{mqtt_password}}'}}\n{OFF}")
    };
    let report = Doctor::new().env("mqtt_password", "hunter2").configured(&text(absent));
    report.says("broker", "failed", &[&format!("127.0.0.1:{absent}"), "cannot be reached", "is it running"]);
    assert!(!report.0.to_string().contains("hunter2"));

    // Accepts the connection, never answers.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = Doctor::new().env("mqtt_password", "hunter2").configured(&text(frozen.local_addr().unwrap().port()));
    report.says("broker", "failed", &["does not answer"]);

    let report = Doctor::new().configured(&text(absent));
    report.says("config", "warning", &["${mqtt_password} is not available", "LoadCredential=mqtt_password:"]);
    report.says("broker", "skipped", &["password"]);
    let report = Doctor::new().configured(&format!("{}camera: x\n", text(absent)));
    report.says("config", "failed", &["ocelli.yaml:3:1: unknown key", "ocelli config check"]);
    assert!(!report.has("broker"));

    crate::mqtt::with_broker(|port| {
        let report = Doctor::new().env("mqtt_password", "hunter2").configured(&text(port));
        report.says("broker", "ok", &["accepted the connection"]);
    });
}

/// `ocelli simulate` of a small clip: the child and its address.
fn camera(clip: &Path) -> (Guard, String) {
    let listen = format!("127.0.0.1:{}", free_port());
    let child = ocelli().arg("simulate").arg(clip).args(["--listen", &listen]).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Guard(child);
    let mut url = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
    (child, url.trim().to_owned())
}

#[test]
fn cameras_are_probed_for_a_picture() {
    let doctor = Doctor::new();
    let clip = crate::source::small_clip(doctor.folder.path());
    let (_camera, url) = camera(&clip);
    doctor.file("noise.mp4", "no video\n".repeat(1000));
    // Accepts the connection, never answers.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = doctor.configured(&format!(
        "cameras:\n  here: '{url}'\n  gone: {{url: 'rtsp://127.0.0.1:{}/x', username: admin, password: hunter2}}\n  \
         off: {{url: '{url}', enabled: false}}\n  clip: {{file: '{}'}}\n  noise: {{file: noise.mp4}}\n  frozen: 'rtsp://{}/x'\n",
        free_port(),
        clip.display(),
        frozen.local_addr().unwrap()
    ));
    report.says("camera.frozen", "failed", &["rtsp://127.0.0.1:"]);
    report.says("camera.here", "ok", &["320×240", "H.264", "frames/s"]);
    report.says("camera.gone", "failed", &["rtsp://127.0.0.1:", "ping"]);
    report.says("camera.off", "skipped", &[]);
    report.says("camera.clip", "ok", &["320×240", "15 frames/s"]);
    report.says("camera.noise", "failed", &["noise.mp4"]);
    assert!(!report.0.to_string().contains("hunter2"));
}

#[test]
fn a_clock_of_1970_is_reported() {
    if Command::new("faketime").arg("--version").output().is_err() {
        crate::common::skip("faketime is not installed: a wrong clock is tried in the unit tests only");
        return;
    }
    let doctor = Doctor::by(Command::new("faketime")).args(&["1970-01-02 00:00:00", env!("CARGO_BIN_EXE_ocelli")]);
    doctor.report().says("clock", "warning", &["1970-01-02", "wrong"]);
}

#[test]
fn the_drop_in_is_written_for_the_nodes_that_exist() {
    let mut doctor = Doctor::new();
    let root = shut_box(&doctor);
    let output = doctor.command.args(["doctor", "--root", &root, "--write-device-dropin"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = Path::new(&root).join("etc/systemd/system/ocelli.service.d/devices.conf");
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written.contains("[Service]\n") && written.contains("DeviceAllow=/dev/nvmap rw\n"), "{written}");

    let printed = ocelli().args(["doctor", "--root", &root, "--write-device-dropin", "-"]).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), written);
    let refused = ocelli().args(["doctor", "--write-device-dropin", "/proc/nowhere/devices.conf"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/proc/nowhere/devices.conf"));
    let usage = ocelli().args(["doctor", "--json", "--write-device-dropin"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut doctor = Doctor::new();
    let mut child = Guard(doctor.command.arg("doctor").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    drop(child.0.stdout.take());
    let mut errors = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "");
}
