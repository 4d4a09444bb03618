//! Memory, power, temperature, clock and disks.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Root;

/// The one problem of a folder that depends on the user.
pub(super) const FORBIDDEN: &str = "this user may not write there";

/// Main memory, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
}

/// A Jetson's power mode, and signs of too little power.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Power {
    /// Number (for `nvpmodel -m`) and name.
    pub mode: Option<(u32, String)>,
    /// Over-current events since boot, each of which slows the module down.
    pub throttled: Option<u64>,
    /// Hottest sensor: millidegrees Celsius and its name.
    pub hottest: Option<(i64, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// The service that sets it: `systemd-timesyncd`, `chrony`, `ntpd`.
    pub keeper: Option<String>,
    /// Whether that service has set the clock; `None`: unknown.
    pub synchronised: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// `state`, `cache`, `jsonl`.
    pub purpose: String,
    pub path: PathBuf,
    /// Bytes free for an ordinary user.
    pub free: Option<u64>,
    /// Why nothing can be written.
    pub trouble: Option<String>,
}

pub(super) fn memory(root: &Root) -> Option<Memory> {
    let text = root.text("/proc/meminfo")?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

pub(super) fn power(root: &Root) -> Power {
    Power { mode: power_mode(root), throttled: throttled(root), hottest: hottest(root) }
}

/// `nvpmodel` keeps its number in a status file and the names in its configuration.
fn power_mode(root: &Root) -> Option<(u32, String)> {
    let status = root.text("/var/lib/nvpmodel/status")?;
    let digits: String = status.split("pmode:").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    let mode: u32 = digits.parse().ok()?;
    let names = root.text("/etc/nvpmodel.conf").unwrap_or_default();
    let name = names.lines().filter(|line| line.contains("POWER_MODEL")).find_map(|line| {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        (word("ID=")?.parse() == Ok(mode)).then(|| word("NAME=")).flatten()
    });
    Some((mode, name.unwrap_or("unnamed").to_owned()))
}

/// Counters of over-current events, `oc1_event_cnt` and so on.
fn throttled(root: &Root) -> Option<u64> {
    let mut sum = None;
    for monitor in root.names("/sys/class/hwmon") {
        let folder = format!("/sys/class/hwmon/{monitor}");
        for name in root.names(&folder).iter().filter(|n| n.starts_with("oc") && n.ends_with("_event_cnt")) {
            let count: Option<u64> = root.text(&format!("{folder}/{name}")).and_then(|text| text.parse().ok());
            sum = Some(sum.unwrap_or(0) + count.unwrap_or(0));
        }
    }
    sum
}

fn hottest(root: &Root) -> Option<(i64, String)> {
    let zones = root.names("/sys/class/thermal");
    let read = zones.iter().filter(|zone| zone.starts_with("thermal_zone")).filter_map(|zone| {
        let at = |name: &str| root.text(&format!("/sys/class/thermal/{zone}/{name}"));
        let degrees: i64 = at("temp")?.parse().ok()?;
        // Sensors of parts without power report nonsense.
        (degrees > 0 && degrees < 200_000).then(|| (degrees, at("type").unwrap_or_else(|| zone.clone())))
    });
    read.max()
}

pub(super) fn clock(root: &Root, now: SystemTime) -> Clock {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let runs = |paths: &[&str]| paths.iter().any(|path| root.exists(path));
    let (keeper, synchronised) = if runs(&["/run/chrony/chronyd.pid", "/run/chronyd.pid"]) {
        (Some("chrony"), None)
    } else if runs(&["/run/ntpd.pid", "/run/ntp/ntpd.pid"]) {
        (Some("ntpd"), None)
    } else if runs(&["/run/systemd/timesync"]) {
        (Some("systemd-timesyncd"), Some(root.exists("/run/systemd/timesync/synchronized")))
    } else {
        (None, None)
    };
    Clock { now, keeper: keeper.map(str::to_owned), synchronised }
}

/// Writes a small file into the folder and removes it: only that reveals a full or read-only disk.
pub(super) fn folder(purpose: &str, path: &Path) -> Folder {
    let file = path.join(format!(".ocelli-doctor-{}", std::process::id()));
    let outcome = write(&file);
    let _ = std::fs::remove_file(&file);
    let trouble = outcome.err().map(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::StorageFull => "the disk is full".to_owned(),
        std::io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        std::io::ErrorKind::PermissionDenied => FORBIDDEN.to_owned(),
        std::io::ErrorKind::NotADirectory => "is not a folder".to_owned(),
        _ => error.to_string(),
    });
    let free = rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    Folder { purpose: purpose.to_owned(), path: path.to_owned(), free, trouble }
}

fn write(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    // Too large to be stored inline, so that the file system must allocate a block.
    std::io::Write::write_all(&mut file, &[0; 8192])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_writable_folder_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let good = folder("state", dir.path());
        assert!(good.trouble.is_none() && good.free.unwrap() > 0, "{good:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(folder("state", &dir.path().join("none")).trouble.unwrap(), "does not exist");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(folder("state", &file).trouble.unwrap(), "is not a folder");
    }
}
