//! Building a GPU engine in a child process and failover at run time, through the whole program, with a fake library that
//! offers TensorRT and builds, waits, fails or crashes as a control file says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Guard, free_port, ocelli};
use crate::runtime::ort_library;

/// Longest time that a test waits for an expected event.
const LONG: Duration = Duration::from_secs(120);

/// The fake library, and a cache of its own.
pub struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// `None`, reported as skipped, without ONNX Runtime or a C compiler.
    pub fn new(control: &str) -> Option<Self> {
        let real = ort_library()?;
        let fake = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(fake.path("pretend.c"), include_str!("pretend_ort.c")).unwrap();
        fake.control(control);
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-O1", "-o"])
            .args([fake.path("libonnxruntime.so"), fake.path("pretend.c")])
            .arg(format!("-DREAL=\"{}\"", real.display()))
            .arg(format!("-DCONTROL=\"{}\"", fake.path("control").display()))
            .arg("-ldl")
            .status();
        match compiled {
            Ok(status) => {
                assert!(status.success(), "cc failed");
                // The program looks whether there is one, and a sound one, before it tries to build.
                std::fs::copy(fake.path("libonnxruntime.so"), fake.path("libonnxruntime_providers_tensorrt.so"))
                    .unwrap();
            }
            Err(error) => {
                crate::common::skip(&format!("no C compiler ({error})"));
                return None;
            }
        }
        Some(fake)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn control(&self, word: &str) {
        std::fs::write(self.path("control.new"), word).unwrap();
        std::fs::rename(self.path("control.new"), self.path("control")).unwrap();
    }

    /// Ids of the processes that began a build.
    fn builds(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.path("control.builds")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn engines(&self) -> PathBuf {
        self.path("cache/engines")
    }

    /// Names in the cache that have `part` in them.
    fn cached(&self, part: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.engines()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.contains(part)).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        std::fs::create_dir_all(self.path("cache")).unwrap();
        let mut command = ocelli();
        command
            .args(args)
            .env("CACHE_DIRECTORY", self.path("cache"))
            .env("ORT_DYLIB_PATH", self.path("libonnxruntime.so"));
        command
    }

    fn build(&self) -> Output {
        self.command(&["models", "build", "--json", "--model"]).arg(marker()).output().unwrap()
    }

    /// `ocelli run` with TensorRT by name and no camera but a disabled one; health on `port`.
    pub fn run(&self, port: u16) -> Command {
        self.run_with(port, "tensorrt", "{url: \"rtsp://127.0.0.1:9/x\", enabled: false}")
    }

    pub fn run_with(&self, port: u16, backend: &str, camera: &str) -> Command {
        let config = format!(
            "model: {{file: {}, backend: {backend}}}\nrtsp: {{enabled: false}}\nhttp: 127.0.0.1:{port}\n\
             cameras: {{gate: {camera}}}\n",
            marker().display()
        );
        std::fs::write(self.path("ocelli.yaml"), config).unwrap();
        let mut command = self.command(&["run", "-c"]);
        command.arg(self.path("ocelli.yaml"));
        command
    }
}

fn marker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn health(port: u16) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET /api/v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[test]
fn an_engine_is_built_once_and_a_damaged_one_is_built_anew() {
    let Some(fake) = Fake::new("ok") else { return };
    let output = fake.build();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["phase"] == "building the engine"), "{lines:?}");
    assert_eq!(lines.last().unwrap()["event"], "done");
    assert_eq!(fake.builds().len(), 1);
    assert!(fake.build().status.success());
    assert_eq!(fake.builds().len(), 1, "it is there already");

    let engine = until("the engine", || {
        let names = fake.cached("");
        names.into_iter().map(|name| fake.engines().join(name).join("pretend.engine")).find(|path| path.exists())
    });
    std::fs::write(&engine, "eng").unwrap();
    let output = fake.build();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("truncated"), "{}", text(&output.stderr));
    assert_eq!((fake.builds().len(), fake.cached("rejected").len()), (2, 1));

    let shown = fake.command(&["models", "show", "--json", "--backend", "tensorrt"]).arg(marker()).output().unwrap();
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["backend"]["kind"], "tensorrt");
    let nodes = shown["backend"]["nodes"].as_object().unwrap();
    assert!(nodes["TensorrtExecutionProvider"].as_u64().unwrap() > 0, "{nodes:?}");
    assert_eq!(fake.builds().len(), 2);

    // The provider's library is replaced: the stored probe result does not hold for the new file.
    std::fs::write(fake.path("libonnxruntime_providers_tensorrt.so"), "\x7fELF").unwrap();
    let shown = fake.command(&["models", "show", "--backend", "tensorrt"]).arg(marker()).output().unwrap();
    assert_eq!(shown.status.code(), Some(69), "{}", text(&shown.stdout));
    assert!(text(&shown.stderr).contains("providers_tensorrt.so: "), "{}", text(&shown.stderr));
}

/// `models show` with `temporary` as the folder for temporary files.
fn show(fake: &Fake, backend: &str, temporary: &Path) -> Output {
    let mut command = fake.command(&["models", "show", "--json", "--backend", backend]);
    command.arg(marker()).env("TMPDIR", temporary).output().unwrap()
}

#[test]
fn profiles_of_sessions_leave_no_file_behind() {
    let Some(fake) = Fake::new("ok") else { return };
    let temporary = fake.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let shown = show(&fake, "cpu", &temporary);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["backend"]["nodes"]["CPUExecutionProvider"].as_u64().unwrap() > 0, "{shown}");
    // The session ends before its profile is read.
    fake.control("run-error");
    assert_eq!(show(&fake, "cpu", &temporary).status.code(), Some(69));
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_gpu_backend_needs_no_temporary_folder() {
    let Some(fake) = Fake::new("ok") else { return };
    let nowhere = Path::new("/nowhere");
    let mut build = fake.command(&["models", "build", "--model"]);
    let output = build.arg(marker()).env("TMPDIR", nowhere).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = show(&fake, "tensorrt", nowhere);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["backend"]["kind"], "tensorrt");
}

#[test]
fn a_build_that_crashes_or_builds_nothing_is_reported_and_leaves_no_file() {
    let Some(fake) = Fake::new("crash") else { return };
    for (control, words) in [
        ("crash", "crashed with SIGSEGV (building the engine)"),
        ("error", "no room for the builder"),
        ("empty", "the provider wrote no engine"),
    ] {
        fake.control(control);
        let output = fake.build();
        assert_eq!(output.status.code(), Some(69), "{control}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(words), "{control}: {}", text(&output.stderr));
        assert!(text(&output.stdout).lines().last().unwrap().contains("\"event\":\"failed\""));
        assert_eq!(fake.cached(".new-"), Vec::<String>::new(), "{control}");
    }
    // A program that ends soon does not build an engine.
    let shown = fake.command(&["models", "show", "--backend", "tensorrt"]).arg(marker()).output().unwrap();
    assert_eq!(shown.status.code(), Some(69));
    assert!(text(&shown.stderr).contains("ocelli models build"), "{}", text(&shown.stderr));
}

#[test]
fn a_library_without_tensorrt_is_reported() {
    let Some(library) = ort_library() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut command = ocelli();
    command.args(["models", "build", "--ort-library"]).arg(library).arg("--model").arg(marker());
    let output = command.env("CACHE_DIRECTORY", dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("libonnxruntime_providers_tensorrt.so"), "{}", text(&output.stderr));
}

#[test]
fn a_build_ends_with_the_process_that_started_it() {
    let Some(fake) = Fake::new("wait") else { return };
    std::fs::create_dir(fake.path("temporary")).unwrap();
    let mut command = fake.command(&["models", "build", "--model"]);
    command.env("TMPDIR", fake.path("temporary"));
    let asks = Guard(command.arg(marker()).stdout(Stdio::null()).spawn().unwrap());
    let id = until("the build", || fake.builds().first().copied());
    drop(asks);
    until("its end", || (!Path::new(&format!("/proc/{id}/exe")).exists()).then_some(()));
    let left: Vec<_> = std::fs::read_dir(fake.path("temporary")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_service_waits_for_the_engine_of_a_named_backend_and_reports_it() {
    let Some(fake) = Fake::new("wait") else { return };
    let port = free_port();
    let service = Guard(fake.run(port).stderr(Stdio::null()).spawn().unwrap());
    let page = until("the build", || health(port).filter(|page| page["engine"]["state"] == "building"));
    assert_eq!((&page["ready"], &page["engine"]["build"]["backend"]), (&false.into(), &"tensorrt".into()));
    until("its phase", || {
        health(port).filter(|page| page["reasons"].to_string().contains("tensorrt engine is being built (building"))
    });
    fake.control("ok");
    let page = until("service", || health(port).filter(|page| page["engine"]["state"] == "serving"));
    assert_eq!((&page["ready"], &page["model"]["backend"]), (&true.into(), &"tensorrt".into()));
    assert_eq!(page["model"]["nodes"].as_object().unwrap().keys().next().unwrap(), "TensorrtExecutionProvider");
    drop(service);
    // The next start has it at once.
    let service = Guard(fake.run(port).stderr(Stdio::null()).spawn().unwrap());
    until("service", || health(port).filter(|page| page["engine"]["state"] == "serving"));
    assert_eq!(fake.builds().len(), 1);
    drop(service);
}

#[test]
fn a_service_whose_engine_cannot_be_built_ends_after_two_builds() {
    let Some(fake) = Fake::new("crash") else { return };
    let mut service = Guard(fake.run(free_port()).stderr(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(service.0.stderr.take().unwrap());
    let log: String = log.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n");
    assert_eq!(service.0.wait().unwrap().code(), Some(69), "{log}");
    assert!(log.contains("crashed with SIGSEGV"), "{log}");
    assert_eq!(fake.builds().len(), 2, "one more try");
    let output = fake.run(free_port()).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("is not built again"), "{}", text(&output.stderr));
    assert_eq!(fake.builds().len(), 2);
    // Until a user requests a build.
    fake.control("ok");
    assert!(fake.build().status.success());
    assert_eq!(fake.builds().len(), 3);
}

#[test]
fn only_a_damaged_engine_is_rejected_and_one_without_memory_is_kept() {
    let Some(fake) = Fake::new("ok") else { return };
    assert!(fake.build().status.success());
    fake.control("load-memory");
    for _ in 0..3 {
        let output = fake.run(free_port()).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("out of memory"), "{}", text(&output.stderr));
    }
    assert_eq!((fake.builds().len(), fake.cached("rejected").len()), (1, 0));
    fake.control("load-bad");
    let output = fake.run(free_port()).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("did not fit 2 times"), "{}", text(&output.stderr));
    assert_eq!((fake.builds().len(), fake.cached("rejected").len()), (2, 2), "built once more");
}

/// The source of a camera that plays a clip in a loop.
pub fn clip() -> String {
    format!("{{file: {}, loop: true}}", crate::common::fixture("clip.mp4").display())
}

#[test]
fn a_runtime_that_begins_to_fail_is_replaced_by_the_next_backend() {
    let (Some(fake), clip) = (Fake::new("ok"), clip()) else { return };
    if Path::new("/dev/nvidiactl").exists() {
        crate::common::skip("this box has a GPU, which auto would take");
        return;
    }
    let port = free_port();
    let service = Guard(fake.run_with(port, "auto", &clip).stderr(Stdio::null()).spawn().unwrap());
    let serves = |backend: &str| {
        health(port).filter(|page| page["engine"]["state"] == "serving" && page["model"]["backend"] == backend)
    };
    let page = until("service", || serves("cpu"));
    assert_eq!(page["model"]["fallbacks"].as_array().unwrap().len(), 0);
    fake.control("run-error");
    let page = until("the next backend", || serves("tract"));
    assert_eq!(page["status"], "degraded");
    let why = page["model"]["fallbacks"][0].as_str().unwrap();
    assert!(why.contains("CUDNN failure 4") && why.contains("while it ran"), "{why}");
    drop(service);
}

#[test]
fn a_lost_gpu_ends_the_service_with_an_exit_code_of_its_own() {
    let (Some(fake), clip) = (Fake::new("ok"), clip()) else { return };
    let port = free_port();
    let mut service = Guard(fake.run_with(port, "auto", &clip).stderr(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(service.0.stderr.take().unwrap());
    let log = std::thread::spawn(move || log.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));
    until("service", || health(port).filter(|page| page["engine"]["state"] == "serving"));
    fake.control("run-lost");
    let code = until("the end", || service.0.try_wait().unwrap()).code();
    let log = log.join().unwrap();
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("CUDA failure 700"), "{log}");
}
