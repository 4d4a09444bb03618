//! The systemd drop-in that allows the service this machine's devices. The nodes differ between versions of JetPack, so no unit
//! file can name them.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::board::Board;
use super::devices::Devices;

/// Drivers whose nodes are all for GPU or video: they are allowed as a whole. Nodes of other drivers (`misc`) are allowed one by
/// one.
const DRIVERS: [&str; 4] = ["video4linux", "drm", "media", "nvmap"];

/// Prefixes of the names of NVIDIA's drivers.
const FAMILIES: [&str; 4] = ["nvidia", "nvhost", "nvgpu", "host1x"];

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
        // Any other character could change the meaning of the unit's line.
        if node.path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c)) {
            text += &format!("DeviceAllow={} rw\n", node.path);
        }
    }
    text
}

/// Whether the drop-in `there` allows all that `text` does; comments do not count.
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

/// Groups that may use a node which others may not; never root's. Only groups of this system: an unknown one would keep the unit
/// from starting.
fn groups(devices: &Devices) -> Vec<String> {
    let opening = |node: &&super::devices::Node| node.mode & 6 != 6 && node.mode >> 3 & 6 == 6 && node.gid != 0;
    let names: BTreeSet<String> = devices.nodes.iter().filter(opening).filter_map(|node| node.group.clone()).collect();
    names.into_iter().collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes `text` to `path` atomically; creates the folder if needed.
pub fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut part = tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(folder)?;
    part.write_all(text.as_bytes())?;
    part.as_file().sync_all()?;
    part.persist(path).map_err(|error| error.error)?;
    Ok(())
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
