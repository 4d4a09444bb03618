//! The drop-in that opens this box's devices to the service. Which nodes there are differs from JetPack to JetPack, so
//! no unit file can name them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use super::board::Board;
use super::devices::Devices;

/// Where systemd looks for it.
pub const DROPIN: &str = "/etc/systemd/system/ocelli.service.d/devices.conf";

/// Drivers whose every node is for GPU or video, now and after a restart with more of them. Others (`misc`) have nodes
/// for all kinds of things: theirs are allowed one by one.
const DRIVERS: [&str; 4] = ["video4linux", "drm", "media", "nvmap"];

/// Beginnings of the names of NVIDIA's drivers.
const FAMILIES: [&str; 4] = ["nvidia", "nvhost", "nvgpu", "host1x"];

/// The text of the drop-in.
pub(super) fn dropin(board: &Board, devices: &Devices) -> String {
    let named: BTreeSet<&str> = devices.nodes.iter().filter_map(|node| whole_driver(node.driver.as_deref()?)).collect();
    let mut text = String::from("# Written by `ocelli doctor --write-device-dropin` for this box");
    let jetpack = board.jetson.as_ref().and_then(|jetson| jetson.l4t.as_deref()).map(|l4t| format!(", L4T {l4t}"));
    if let Some(model) = &board.model {
        text += &format!(": {}{}", one_line(model), jetpack.unwrap_or_default());
    }
    text += ".\n# Run it again after an upgrade of JetPack or of the driver; then\n#   systemctl daemon-reload && systemctl restart ocelli\n[Service]\n";
    if devices.nodes.is_empty() {
        text += "# No node for a GPU or for video was found: nothing to allow.\n";
        return text;
    }
    let groups = groups(devices);
    if !groups.is_empty() {
        text += &format!("SupplementaryGroups={}\n", groups.join(" "));
    }
    for driver in named {
        text += &format!("DeviceAllow=char-{driver} rw\n");
    }
    for node in devices.nodes.iter().filter(|node| node.driver.as_deref().and_then(whole_driver).is_none()) {
        // A name that the unit's syntax would read otherwise is no device of ours.
        if node.path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c)) {
            text += &format!("DeviceAllow={} rw\n", node.path);
        }
    }
    text
}

/// True when the drop-in that is there allows what this one would; only what systemd reads counts.
pub(super) fn current(text: &str, there: &str) -> bool {
    let settings = |text: &str| -> BTreeSet<String> {
        text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
    };
    settings(text).is_subset(&settings(there))
}

fn whole_driver(name: &str) -> Option<&str> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let ours = DRIVERS.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family));
    (plain && ours).then_some(name)
}

/// Groups that open a node that not everybody may use. A group that does not exist would keep the unit from starting, so
/// only names of this system are taken; never root's.
fn groups(devices: &Devices) -> Vec<String> {
    let opening = |node: &&super::devices::Node| node.mode & 6 != 6 && node.mode >> 3 & 6 == 6 && node.gid != 0;
    let names: BTreeSet<String> = devices.nodes.iter().filter(opening).filter_map(|node| node.group.clone()).collect();
    names.into_iter().collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes `text` to `path` in one step: a reader sees the old file or the new one. Makes the folder if need be.
///
/// # Errors
/// The system's own.
pub fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path has no file name"))?;
    let part = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = std::fs::File::create(&part).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let outcome = written.and_then(|()| std::fs::rename(&part, path));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::devices::{Node, User};
    use super::*;

    fn node(path: &str, group: Option<&str>, mode: u32, driver: Option<&str>) -> Node {
        let (group, driver) = (group.map(str::to_owned), driver.map(str::to_owned));
        Node { path: path.into(), gid: 44, group, uid: 0, mode, driver }
    }

    #[test]
    fn whole_drivers_are_allowed_by_name_and_shared_ones_by_node() {
        let devices = Devices {
            user: User::default(),
            nodes: vec![
                node("/dev/nvmap", Some("video"), 0o660, Some("misc")),
                node("/dev/nvhost-gpu", Some("video"), 0o660, Some("nvhost")),
                node("/dev/nvhost-vic", Some("video"), 0o660, Some("nvhost")),
                node("/dev/dri/renderD128", Some("render"), 0o660, Some("drm")),
                node("/dev/nvidia0", Some("kmem"), 0o666, Some("nvidia")),
                node("/dev/video0", None, 0o660, None),
                node("/dev/nvidia evil\nExecStart=/bin/sh", None, 0o660, None),
            ],
        };
        let text = dropin(&Board { model: Some("Jetson\nX".into()), ..Board::default() }, &devices);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "[Service]",
                "SupplementaryGroups=render video",
                "DeviceAllow=char-drm rw",
                "DeviceAllow=char-nvhost rw",
                "DeviceAllow=char-nvidia rw",
                "DeviceAllow=/dev/nvmap rw",
                "DeviceAllow=/dev/video0 rw",
            ]
        );
    }

    #[test]
    fn a_dropin_is_current_when_nothing_is_missing_in_it() {
        let wanted = "# new\n[Service]\nDeviceAllow=/dev/nvmap rw\n";
        assert!(current(wanted, "# old\n[Service]\nDeviceAllow=/dev/nvmap rw\nDeviceAllow=/dev/more rw\n"));
        assert!(!current(wanted, "[Service]\n"));
    }

    #[test]
    fn the_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ocelli.service.d/devices.conf");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write(&path.join("below/a/file"), "x").is_err());
    }
}
