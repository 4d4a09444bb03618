//! Cameras and ports of the configuration.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::Root;
use super::facts::{CameraFacts, Port, Probed, Scope};
use super::limit::{Limited, Task, child};
use crate::config::{CameraConfig, SourceConfig};
use crate::source::CameraProbe;

/// A camera has 15 s for its first picture; then frames are counted.
const CAMERA: Duration = Duration::from_secs(30);
/// Cameras probed at the same time: each probe is a process that decodes video.
const AT_ONCE: usize = 4;

/// Binds and releases the port; finds the process that holds it when it is taken.
pub(super) fn port(root: &Root, server: &str, address: SocketAddr) -> Port {
    let outcome = TcpListener::bind(address).map(drop);
    let holder = match &outcome {
        Err(error) if error.kind() == ErrorKind::AddrInUse => holder(root, address.port()),
        _ => None,
    };
    let trouble = outcome.err().map(|error| match error.kind() {
        ErrorKind::AddrInUse => "is taken".to_owned(),
        ErrorKind::PermissionDenied => "needs a privilege: ports below 1024 are reserved".to_owned(),
        ErrorKind::AddrNotAvailable => "is no address of this machine".to_owned(),
        _ => error.to_string(),
    });
    Port { server: server.to_owned(), address, trouble, holder }
}

/// Name and id of the process that listens on a TCP port, as far as this user may see it.
fn holder(root: &Root, port: u16) -> Option<(String, u32)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| root.text(table).unwrap_or_default());
    let sockets: Vec<(String, u32)> = tables.iter().flat_map(|table| listening(table, port)).collect();
    let processes: Vec<u32> = root.names("/proc").into_iter().filter_map(|name| name.parse().ok()).collect();
    let name = |id: u32| root.text(&format!("/proc/{id}/comm"));
    let holds = |id: &&u32| {
        root.names(&format!("/proc/{id}/fd")).into_iter().any(|fd| {
            let target = std::fs::read_link(root.at(&format!("/proc/{id}/fd/{fd}")));
            target.is_ok_and(|target| sockets.iter().any(|(socket, _)| target.as_os_str() == socket.as_str()))
        })
    };
    if let Some(id) = processes.iter().find(holds) {
        return Some((name(*id)?, *id));
    }
    // The open files of other users' processes are hidden, but not their names: an `ocelli` of the socket's user is the service.
    let service = |id: &&u32| {
        let owner = std::fs::metadata(root.at(&format!("/proc/{id}"))).map(|meta| meta.uid());
        name(**id).as_deref() == Some("ocelli") && owner.is_ok_and(|owner| sockets.iter().any(|(_, uid)| *uid == owner))
    };
    let own = root.at("/proc/self").canonicalize().ok().and_then(|path| std::fs::metadata(path).ok()).map(|m| m.uid());
    if sockets.iter().any(|(_, uid)| Some(*uid) == own) {
        return None;
    }
    processes.iter().find(service).map(|id| ("ocelli".to_owned(), *id))
}

/// The sockets of a table that listen on `port`, as the links in `/proc/<id>/fd` name them, and their users.
fn listening(table: &str, port: u16) -> Vec<(String, u32)> {
    let ending = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&ending) && *fields.get(3)? == "0A";
            listens.then(|| Some((format!("socket:[{}]", fields.get(9)?), fields.get(7)?.parse().ok()?)))?
        })
        .collect()
}

/// Probes every enabled camera in a child process that reads the same configuration: a password on the command line would be
/// visible to all users.
pub(super) fn cameras(scope: &Scope, arguments: &[OsString]) -> Vec<CameraFacts> {
    let Some(config) = &scope.config else { return Vec::new() };
    let mut seen = Vec::new();
    for group in config.cameras.chunks(AT_ONCE) {
        let tasks: Vec<_> = group.iter().map(|camera| probe(scope, camera, arguments)).collect();
        for (camera, task) in group.iter().zip(tasks) {
            let source = match &camera.source {
                SourceConfig::Rtsp { url, .. } => url.clone(),
                SourceConfig::Usb { device, .. } => device.display().to_string(),
                SourceConfig::Csi { sensor, .. } => format!("CSI sensor {sensor}"),
                SourceConfig::File { path, .. } => path.display().to_string(),
            };
            let outcome = match task {
                Ok(task) => Probed::Yes(task.wait().and_then(|outcome| outcome)),
                Err(why_not) => why_not,
            };
            let live = camera.source.is_live();
            seen.push(CameraFacts { name: camera.name.to_string(), source, live, outcome });
        }
    }
    seen
}

/// Starts the probe of a camera; the error is why there is none.
fn probe(scope: &Scope, camera: &CameraConfig, arguments: &[OsString]) -> Result<Task<Limited<CameraProbe>>, Probed> {
    if !camera.enabled {
        return Err(Probed::Off);
    }
    if let SourceConfig::Rtsp { password, .. } = &camera.source
        && scope.lacks(password.as_ref())
    {
        return Err(Probed::NoSecret);
    }
    let mut call: Vec<OsString> = vec!["probe-media".into(), "--camera".into(), camera.name.to_string().into()];
    call.extend_from_slice(arguments);
    Ok(Task::start("camera", CAMERA + Duration::from_secs(2), move || look(&call)))
}

fn look(call: &[OsString]) -> Limited<CameraProbe> {
    let call: Vec<&std::ffi::OsStr> = call.iter().map(OsString::as_os_str).collect();
    child(&call, CAMERA, "the process that probed it")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_taken_port_names_the_process_that_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = port(&Root::default(), "rtsp", address);
        assert_eq!(taken.trouble.as_deref(), Some("is taken"));
        assert_eq!(taken.holder.unwrap().1, std::process::id());
        drop(listener);
        assert_eq!(port(&Root::default(), "rtsp", address).trouble, None);
        let foreign = port(&Root::default(), "rtsp", "192.0.2.1:8554".parse().unwrap());
        assert_eq!(foreign.trouble.as_deref(), Some("is no address of this machine"));
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:216A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1\n\
            1: 0100007F:216A 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
            2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(listening(table, 8554), [("socket:[4711]".to_owned(), 1000)]);
    }
}
