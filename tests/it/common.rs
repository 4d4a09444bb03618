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

/// `name` below the test data folder (`OCELLI_TEST_DATA`, else `../shared/data`); `None`, said loudly, when absent.
pub fn test_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("OCELLI_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("REQUIRE_TEST_DATA").is_none(),
        "REQUIRE_TEST_DATA is set, but {} is absent",
        path.display()
    );
    skipped(&format!("test data {} is absent; set OCELLI_TEST_DATA to its folder", path.display()));
    None
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

/// Says on the real standard error that a test could not run: what `eprintln!` writes, the test runner keeps to itself.
pub fn skipped(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
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
