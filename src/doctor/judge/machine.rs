//! The machine itself.

use std::time::{Duration, UNIX_EPOCH};

use super::{listed, size};
use crate::doctor::board::{Board, Jetson};
use crate::doctor::check::{Check, Section, Status};
use crate::doctor::devices::User;
use crate::doctor::facts::Facts;
use crate::doctor::system::{FORBIDDEN, Folder, Memory};

/// The first second of 2024, before the first release of Ocelli.
const YEAR_2024: u64 = 1_704_067_200;
/// Oldest Linux for Tegra whose GStreamer is new enough: JetPack 5.
const OLDEST_L4T: u32 = 34;
/// Least free memory for the model and one camera, KiB.
const LITTLE_MEMORY: u64 = 300 << 10;
/// Less free disk space than this is a warning, bytes.
const LITTLE_DISK: u64 = 200 << 20;
/// Chips slow down a little above this, millidegrees Celsius.
const HOT: i64 = 90_000;

fn check(id: impl Into<String>, status: Status, detail: impl Into<String>) -> Check {
    Check::new(Section::Machine, id, status, detail)
}

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![board(&facts.board)];
    checks.extend(facts.board.jetson.as_ref().map(|jetson| jetpack(jetson, facts.board.container)));
    checks.extend(facts.memory.map(memory));
    checks.extend(power(facts));
    checks.push(clock(facts));
    checks.extend(facts.folders.iter().map(|folder| self::folder(folder, &facts.devices.user)));
    checks.push(devices(facts));
    checks.extend(facts.dropin.map(dropin));
    checks
}

fn board(board: &Board) -> Check {
    let mut words = vec![board.model.clone().unwrap_or_else(|| "unknown board".into())];
    words.extend(board.jetson.as_ref().and_then(|jetson| jetson.chip.clone()).filter(|chip| !words[0].contains(chip)));
    words.push(format!("{} × {}", board.cpus, board.arch));
    words.extend(board.os.clone());
    words.extend(board.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    words.extend(board.container.then(|| "in a container".to_owned()));
    check("board", Status::Ok, words.join(", "))
}

fn jetpack(jetson: &Jetson, container: bool) -> Check {
    let detail = match (&jetson.jetpack, &jetson.l4t) {
        (Some(jetpack), Some(l4t)) => format!("{jetpack} (L4T {l4t})"),
        (None, Some(l4t)) => format!("L4T {l4t}"),
        _ => String::new(),
    };
    let named = |status, detail: String| check("jetpack", status, detail).named("JetPack");
    match jetson.l4t_major() {
        Some(major) if major < OLDEST_L4T => {
            named(Status::Failed, format!("{detail} is too old")).fix("flash JetPack 5 or newer")
        }
        Some(_) => named(Status::Ok, detail),
        None if container => {
            named(Status::Warning, "a Jetson, but its release is not visible in this container".into())
                .fix("start the container with `--runtime nvidia`, on an image made for this JetPack")
        }
        None => named(Status::Warning, "a Jetson without /etc/nv_tegra_release: its release is unknown".into())
            .fix("sudo apt-get install --reinstall nvidia-l4t-core"),
    }
}

fn memory(memory: Memory) -> Check {
    let detail = format!("{} available of {}", size(memory.available << 10), size(memory.total << 10));
    match memory.available < LITTLE_MEMORY {
        false => check("memory", Status::Ok, detail),
        true => check("memory", Status::Warning, detail)
            .fix("end programs that are not needed; on a Jetson without a screen: sudo systemctl set-default multi-user.target"),
    }
}

fn power(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let power = &facts.power;
    if let Some((mode, name)) = &power.mode {
        let detail = format!("mode {name} (nvpmodel {mode})");
        checks.push(match power.throttled {
            Some(times) if times > 0 => {
                let detail =
                    format!("{detail}; slowed down {times} times since boot, because it drew too much current");
                check("power", Status::Warning, detail)
                    .fix("use a stronger power supply, or a lower power mode: sudo nvpmodel -q --verbose lists them")
            }
            _ => check("power", Status::Ok, detail),
        });
    }
    if let Some((degrees, sensor)) = &power.hottest {
        let detail = format!("{} °C at most ({sensor})", degrees / 1000);
        checks.push(match *degrees >= HOT {
            true => check("temperature", Status::Warning, detail).fix("cool the machine: it slows down when it is hot"),
            false => check("temperature", Status::Ok, detail),
        });
    }
    checks
}

fn clock(facts: &Facts) -> Check {
    let clock = &facts.clock;
    let now = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(clock.now)).to_string();
    let enable = "sudo timedatectl set-ntp true; without internet, name a time server of the site in /etc/systemd/timesyncd.conf";
    if clock.now < YEAR_2024 {
        // With the clock in the past, no certificate is valid yet.
        let tls = facts.scope.config.as_ref().and_then(|config| config.mqtt.as_ref()).is_some_and(|mqtt| mqtt.url.tls);
        let (status, more) = match tls {
            true => (Status::Failed, ", and TLS refuses every certificate"),
            false => (Status::Warning, ""),
        };
        return check("clock", status, format!("it shows {now}, which is wrong: messages carry wrong times{more}"))
            .fix(enable);
    }
    match (&clock.keeper, clock.synchronised) {
        (Some(keeper), Some(true)) => check("clock", Status::Ok, format!("{now}, synchronised by {keeper}")),
        (Some(keeper), None) => check("clock", Status::Ok, format!("{now}, kept by {keeper}")),
        (Some(keeper), Some(false)) => {
            let detail = format!("{now}, but {keeper} has not reached a time server yet");
            check("clock", Status::Warning, detail).fix("timedatectl timesync-status shows which server it asks")
        }
        (None, _) if facts.board.container => check("clock", Status::Ok, format!("{now}; the host keeps it")),
        (None, _) => {
            check("clock", Status::Warning, format!("{now}, but nothing keeps it right: it will drift")).fix(enable)
        }
    }
}

fn folder(folder: &Folder, user: &User) -> Check {
    let path = folder.path.display();
    let free = folder.free.map(|free| format!(", {} free", size(free))).unwrap_or_default();
    let named = |status, detail: String| {
        check(format!("folder.{}", folder.purpose), status, detail).named(format!("{} folder", folder.purpose))
    };
    let Some(trouble) = &folder.trouble else {
        return match folder.free {
            Some(bytes) if bytes < LITTLE_DISK => named(Status::Warning, format!("{path}{free}"))
                .fix("make room: sudo apt-get clean; sudo journalctl --vacuum-size=100M"),
            _ => named(Status::Ok, format!("{path}{free}")),
        };
    };
    // The service's folders belong to its user: that another user may not write there is no fault.
    let stranger = user.uid != 0 && user.name != "ocelli" && matches!(folder.purpose.as_str(), "state" | "cache");
    if stranger && trouble == FORBIDDEN {
        return named(Status::Warning, format!("{path}: {} may not write there, the service may", user.name))
            .fix("sudo ocelli doctor checks it");
    }
    let fix = match trouble.as_str() {
        "does not exist" => format!("sudo install -d {path}"),
        "the disk is full" => format!("make room on it: df -h {path}; sudo journalctl --vacuum-size=100M"),
        "the file system is read-only" => {
            format!("findmnt -T {path} shows the mount; dmesg says why, when it was a disk error")
        }
        FORBIDDEN => format!("give the folder to the user that runs Ocelli: ls -ld {path}"),
        _ => format!("ls -ld {path}; df -h {path}"),
    };
    // The temporary folder is only needed to test a GPU; the others are needed always.
    let status = if folder.purpose == "temporary" { Status::Warning } else { Status::Failed };
    named(status, format!("{path}: {trouble}")).fix(fix)
}

fn devices(facts: &Facts) -> Check {
    let (nodes, user) = (&facts.devices.nodes, &facts.devices.user);
    if nodes.is_empty() {
        return check("devices", Status::Skipped, "no device node of a GPU, a decoder or an encoder");
    }
    let count = match nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let shut: Vec<_> = nodes.iter().filter(|node| !node.open_to(user)).collect();
    if shut.is_empty() {
        return check("devices", Status::Ok, format!("{count}, all open to {}", user.name));
    }
    let names: Vec<&str> = shut.iter().take(4).map(|node| node.path.as_str()).collect();
    let more = if shut.len() > names.len() { ", …" } else { "" };
    let detail = format!("{} of {count} closed to {}: {}{more}", shut.len(), user.name, names.join(", "));
    let mut groups: Vec<&str> = shut
        .iter()
        .filter(|node| node.mode >> 3 & 6 == 6 && node.gid != 0)
        .filter_map(|node| node.group.as_deref())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let fix = match groups.as_slice() {
        [] => format!("no group opens them: ls -l {}", names[0]),
        groups if user.name == "ocelli" => {
            format!("sudo ocelli doctor --write-device-dropin gives the service {}", group_names(groups))
        }
        groups => format!("sudo usermod -aG {} {}, then log in again", groups.join(","), user.name),
    };
    let gpu = shut.iter().any(|node| node.path.starts_with("/dev/nv"));
    check("devices", if gpu && facts.scope.wants_gpu() { Status::Failed } else { Status::Warning }, detail).fix(fix)
}

/// The unit allows only devices that it names; a new JetPack brings new names.
fn dropin(current: bool) -> Check {
    let named = |status, detail: &str| check("dropin", status, detail).named("service devices");
    match current {
        true => named(Status::Ok, "the drop-in of the service allows all of them"),
        false => named(Status::Warning, "the drop-in of the service does not allow all of them")
            .fix("sudo ocelli doctor --write-device-dropin, then: sudo systemctl daemon-reload && sudo systemctl restart ocelli"),
    }
}

fn group_names(groups: &[&str]) -> String {
    format!("the {} {}", if groups.len() == 1 { "group" } else { "groups" }, listed(groups))
}
