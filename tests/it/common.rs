//! What several test modules need: paths, free ports, children that die with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

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
