//! What several test modules need: paths, free ports, children that die with the test.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The built `ocelli`.
pub fn ocelli() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ocelli"))
}

/// A file of `tests/data`, which every clone has.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The folder of the shipped model.
pub fn shipped_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/yolov5s-efficientnetv2")
}

/// `name` in the folder of larger test data (`OCELLI_TEST_DATA`, else `../shared/data`); `None`, recorded as a skip, if it is
/// absent.
pub fn test_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("OCELLI_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        skip(&format!("test data {} is absent; OCELLI_TEST_DATA names its folder", path.display()));
        return None;
    }
    Some(path)
}

/// Tests that may skip even with `REQUIRE_TEST_DATA=1`, each with its reason.
const ALLOWED_SKIPS: &str = include_str!("../allowed-skips.txt");

/// Records that this test, or a part of it, does not run: on the real standard error, because the test runner captures what
/// `eprintln!` writes, and in the file named by `OCELLI_SKIPS`, which `tests/run.sh` prints at the end. With `REQUIRE_TEST_DATA=1` a
/// skip is a failure unless `tests/allowed-skips.txt` lists the test.
pub fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed thread");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    if let Some(log) = std::env::var_os("OCELLI_SKIPS") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        log.write_all(format!("{test}: {why}\n").as_bytes()).unwrap();
    }
    let required = std::env::var_os("REQUIRE_TEST_DATA").is_some_and(|value| !value.is_empty() && value != "0");
    assert!(
        !required || may_skip(test),
        "REQUIRE_TEST_DATA is set, but {test} is skipped: {why}. If that is right everywhere, list it in tests/allowed-skips.txt"
    );
}

fn may_skip(test: &str) -> bool {
    let entries = ALLOWED_SKIPS.lines().filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| line.split_once(": ")).any(|(name, _)| name == test)
}

#[test]
fn only_listed_tests_may_skip_and_each_entry_has_a_reason() {
    for line in ALLOWED_SKIPS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (test, reason) = line.split_once(": ").unwrap_or_else(|| panic!("`{line}` is not `module::test: reason`"));
        assert!(reason.len() > 10 && may_skip(test), "{line}");
        let (module, name) = test.rsplit_once("::").unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(module.replace("::", "/") + ".rs");
        let code = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(code.contains(&format!("fn {name}(")), "{} has no test {name}", file.display());
    }
    assert!(!may_skip("parity::shipped::f32_on_tract"));
}

/// A TCP port that was free a moment ago on 127.0.0.1.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child process that is killed and reaped when the test ends, however it ends.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of a child's output, collected by a thread.
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn of(stream: impl std::io::Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Self(lines)
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The first line that `test` accepts, waiting for it.
    pub fn wait(&self, what: &str, seconds: u64, test: impl Fn(&str) -> bool) -> String {
        self.wait_after(0, what, seconds, test)
    }

    /// As [`Self::wait`], but for a line behind the first `skip`.
    pub fn wait_after(&self, skip: usize, what: &str, seconds: u64, test: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(line) = self.all().into_iter().skip(skip).find(|line| test(line)) {
                return line;
            }
            assert!(Instant::now() < deadline, "{what} did not come within {seconds} s; got: {:#?}", self.all());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Waits until something listens there.
pub fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The whole answer, head included.
pub fn http_get(port: u16, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// `kill -NAME`.
pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// The exit code, waiting for it; `None` when it did not end or a signal ended it.
pub fn wait_exit(child: &mut Child, seconds: u64) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

/// Whether the child ends, waiting for it.
pub fn wait_end(child: &mut Child, seconds: u64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}
