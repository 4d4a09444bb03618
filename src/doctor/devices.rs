//! Device nodes, and whether the user that runs Ocelli may use them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::Root;

/// Nodes of GPUs, video decoders and encoders: names below `/dev`; `*` stands for any rest.
const NODES: [&str; 12] = [
    "nvmap",
    "nvhost-*",
    "nvgpu/*/*",
    "nvidia*",
    "nvidia-caps/*",
    "nvsciipc",
    "host1x-fence",
    "dri/*",
    "video*",
    "media*",
    "v4l2-nv*",
    "v4l-subdev*",
];
/// Bound on the number of nodes; no machine has that many.
const MOST: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user name, else `user` and the id.
    pub name: String,
    pub uid: u32,
    pub gids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: String,
    pub gid: u32,
    pub group: Option<String>,
    pub uid: u32,
    pub mode: u32,
    /// The driver's name in `/proc/devices`, for example `nvhost`.
    pub driver: Option<String>,
}

impl Node {
    /// Whether `user` may read and write it.
    pub fn open_to(&self, user: &User) -> bool {
        let bits = match () {
            () if user.uid == 0 => return true,
            () if user.uid == self.uid => self.mode >> 6,
            () if user.gids.contains(&self.gid) => self.mode >> 3,
            () => self.mode,
        };
        bits & 6 == 6
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    pub user: User,
    pub nodes: Vec<Node>,
}

pub(super) fn devices(root: &Root) -> Devices {
    let groups = groups(&root.text("/etc/group").unwrap_or_default());
    Devices { user: user(root), nodes: nodes(root, &groups) }
}

type Group = (String, u32, Vec<String>);

fn groups(text: &str) -> Vec<Group> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
            Some((name.to_owned(), gid, fields.next().unwrap_or_default().split(',').map(str::to_owned).collect()))
        })
        .collect()
}

/// The user of this process. For root: the service's user `ocelli`, if it exists.
fn user(root: &Root) -> User {
    let status = root.text("/proc/self/status").unwrap_or_default();
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    let effective = |ids: Vec<u32>| ids.get(1).copied();
    let passwd = root.text("/etc/passwd").unwrap_or_default();
    let entry = |wanted: &dyn Fn(&str, u32) -> bool| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, uid, gid) = (*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            wanted(name, uid).then(|| (name.to_owned(), uid, gid))
        })
    };
    let uid = effective(ids("Uid:")).unwrap_or(0);
    if uid == 0
        && let Some((name, uid, gid)) = entry(&|name, _| name == "ocelli")
    {
        let given = supplementary(root);
        let member = groups(&root.text("/etc/group").unwrap_or_default())
            .into_iter()
            .filter(|(group, _, members)| members.contains(&name) || given.contains(group))
            .map(|(_, gid, _)| gid);
        return User { gids: std::iter::once(gid).chain(member).collect(), name, uid };
    }
    let gids = effective(ids("Gid:")).into_iter().chain(ids("Groups:")).collect();
    let name: Option<(String, u32, u32)> = entry(&|_, id| id == uid);
    User { name: name.map_or_else(|| format!("user {uid}"), |(name, ..)| name), uid, gids }
}

/// The drop-in that `--write-device-dropin` writes.
pub const DROPIN: &str = "/etc/systemd/system/ocelli.service.d/devices.conf";

/// Places of the service's unit, the most important last.
const UNITS: [&str; 3] = [
    "/usr/lib/systemd/system/ocelli.service",
    "/lib/systemd/system/ocelli.service",
    "/etc/systemd/system/ocelli.service",
];

pub(super) fn has_unit(root: &Root) -> bool {
    UNITS.iter().any(|unit| root.exists(unit))
}

/// Groups that the unit and its drop-in add to those of the service's user.
fn supplementary(root: &Root) -> Vec<String> {
    let texts: Vec<String> = UNITS.iter().chain([&DROPIN]).filter_map(|file| root.text(file)).collect();
    let lines = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("SupplementaryGroups="));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

fn nodes(root: &Root, groups: &[Group]) -> Vec<Node> {
    let drivers = root.text("/proc/devices").unwrap_or_default();
    let mut nodes = Vec::new();
    for path in NODES.iter().flat_map(|pattern| expand(root, "/dev", pattern)) {
        let Ok(meta) = std::fs::metadata(root.at(&path)) else { continue };
        // In a test's tree, plain files stand for devices.
        let device = meta.file_type().is_char_device();
        if !device && (root.is_real() || meta.is_dir()) {
            continue;
        }
        let driver = device.then(|| driver(&drivers, rustix::fs::major(meta.rdev()))).flatten();
        let group = groups.iter().find(|(_, gid, _)| *gid == meta.gid()).map(|(name, ..)| name.clone());
        nodes.push(Node { path, gid: meta.gid(), group, uid: meta.uid(), mode: meta.mode() & 0o777, driver });
    }
    nodes.truncate(MOST);
    nodes
}

fn expand(root: &Root, folder: &str, pattern: &str) -> Vec<String> {
    let (head, tail) = pattern.split_once('/').map_or((pattern, None), |(head, tail)| (head, Some(tail)));
    let prefix = head.trim_end_matches('*');
    let fits = |name: &&String| if prefix.len() < head.len() { name.starts_with(prefix) } else { *name == head };
    let names: Vec<String> = root.names(folder).iter().filter(fits).map(|name| format!("{folder}/{name}")).collect();
    match tail {
        Some(tail) => names.iter().flat_map(|folder| expand(root, folder, tail)).collect(),
        None => names,
    }
}

/// The driver of a character device with this major number.
fn driver(devices: &str, major: u32) -> Option<String> {
    let characters = devices.split("Block devices").next()?;
    characters.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then(|| name.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mode: u32) -> Node {
        Node { path: "/dev/nvmap".into(), gid: 44, group: Some("video".into()), uid: 0, mode, driver: None }
    }

    #[test]
    fn access_is_checked_as_the_kernel_does() {
        let user = |uid, gids: &[u32]| User { name: "u".into(), uid, gids: gids.into() };
        assert!(node(0o660).open_to(&user(1000, &[44])));
        assert!(!node(0o660).open_to(&user(1000, &[1000])));
        assert!(!node(0o606).open_to(&user(1000, &[44])), "the group's bits count, not the others'");
        assert!(node(0o666).open_to(&user(1000, &[])));
        assert!(node(0).open_to(&user(0, &[])));
        assert!(!node(0o440).open_to(&user(1000, &[44])), "reading is not enough");
    }

    #[test]
    fn drivers_come_from_the_character_devices() {
        let text = "Character devices:\n  1 mem\n195 nvidia\n236 nvhost\n\nBlock devices:\n  7 loop\n";
        assert_eq!(driver(text, 236).as_deref(), Some("nvhost"));
        assert_eq!(driver(text, 7), None);
    }
}
