//! Secrets, broker, ports and cameras of the configuration.

use super::listed;
use crate::doctor::check::{Check, Section, Status};
use crate::doctor::facts::{Broker, CameraFacts, Credentials, Facts, Port, Probed};

fn check(id: impl Into<String>, status: Status, detail: impl Into<String>) -> Check {
    Check::new(Section::Configuration, id, status, detail)
}

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![configuration(facts)];
    checks.extend(facts.credentials.as_ref().map(credentials));
    checks.extend(facts.broker.as_ref().map(broker));
    checks.extend(facts.ports.iter().map(port));
    checks.extend(facts.cameras.iter().map(camera));
    checks
}

fn configuration(facts: &Facts) -> Check {
    let id = |status, detail: String| check("config", status, detail).named("file");
    let scope = &facts.scope;
    if let Some(errors) = &scope.errors {
        return id(Status::Failed, errors.clone())
            .fix("ocelli config check shows the lines; broker, ports and cameras were not checked");
    }
    let Some(config) = &scope.config else {
        let detail =
            "none: looked for ./ocelli.yaml and /etc/ocelli/ocelli.yaml; broker, ports and cameras are not checked";
        return id(Status::Skipped, detail.into());
    };
    let files: Vec<String> = scope.files.iter().map(|file| file.display().to_string()).collect();
    let cameras = match config.cameras.len() {
        1 => "1 camera".to_owned(),
        count => format!("{count} cameras"),
    };
    let detail = format!("{} ({cameras})", if files.is_empty() { "no file".to_owned() } else { files.join(" + ") });
    // systemd gives secrets only to the service, so a missing one is no fault of the machine.
    if let Some(first) = scope.secrets.first() {
        let names: Vec<String> = scope.secrets.iter().map(|name| format!("${{{name}}}")).collect();
        return id(Status::Warning, format!("{detail}: {} is not available, so what needs it is not checked", listed(&names))).fix(format!(
            "as the service sees it: sudo systemd-run -qP -p LoadCredential={first}:FILE ocelli doctor -c {}; or set the environment variable",
            files.first().map_or("FILE", String::as_str)
        ));
    }
    match scope.warnings.as_slice() {
        [] => id(Status::Ok, detail),
        warnings => {
            id(Status::Warning, format!("{detail}: {}", warnings.join("; "))).fix("ocelli config check shows the lines")
        }
    }
}

fn credentials(credentials: &Credentials) -> Check {
    let folder = credentials.folder.display();
    match &credentials.names {
        Some(names) if names.is_empty() => check("credentials", Status::Warning, format!("{folder} is empty"))
            .fix("name them in the unit: LoadCredential=NAME:FILE"),
        Some(names) => check("credentials", Status::Ok, format!("{} from systemd", names.join(", "))),
        None => check("credentials", Status::Failed, format!("{folder} cannot be read"))
            .fix("CREDENTIALS_DIRECTORY is systemd's: unset it, or start Ocelli through its unit"),
    }
}

fn broker(broker: &Broker) -> Check {
    let id = |status, detail: String| check("broker", status, detail).named("MQTT broker");
    match &broker.outcome {
        None => id(Status::Skipped, format!("{}: its password is not available", broker.address)),
        Some(Ok(())) => id(
            Status::Ok,
            format!("{} accepted the connection{}", broker.address, if broker.tls { ", over TLS" } else { "" }),
        ),
        Some(Err(reason)) => {
            // Errors of the MQTT sink name the fix after a semicolon or from `check` on.
            let (what, fix) = match (reason.split_once("; "), reason.split_once(": check ")) {
                (_, Some((what, fix))) => (what, format!("check {fix}")),
                (Some((what, fix)), None) => (what, fix.to_owned()),
                (None, None) => (reason.as_str(), "check `mqtt` in the configuration".to_owned()),
            };
            id(Status::Failed, format!("{} {what}", broker.address)).fix(fix)
        }
    }
}

fn port(port: &Port) -> Check {
    let id = |status, detail: String| {
        check(format!("port.{}", port.server), status, detail).named(format!("{} port", port.server.to_uppercase()))
    };
    let address = port.address;
    let Some(trouble) = &port.trouble else {
        return id(Status::Ok, format!("{address} is free"));
    };
    let key = format!("`{}.listen`", port.server);
    match &port.holder {
        Some((name, id_)) if name == "ocelli" => {
            id(Status::Ok, format!("{address} is held by ocelli itself (process {id_})"))
        }
        Some((name, id_)) => id(Status::Failed, format!("{address} {trouble} by {name} (process {id_})"))
            .fix(format!("end that program, or set {key} to another port")),
        None if trouble == "is taken" => id(Status::Failed, format!("{address} is taken by another program"))
            .fix(format!("sudo ss -ltnp sport = :{} names it; end it, or set {key} to another port", address.port())),
        None => id(Status::Failed, format!("{address} {trouble}"))
            .fix(format!("set {key} to an address and port of this machine, from 1024 up")),
    }
}

fn camera(camera: &CameraFacts) -> Check {
    let kind = if camera.live { "camera" } else { "file" };
    let id = |status, detail: String| {
        check(format!("camera.{}", camera.name), status, detail).named(format!("{kind} {}", camera.name))
    };
    match &camera.outcome {
        Probed::Off => id(Status::Skipped, format!("{}: switched off in the configuration", camera.source)),
        Probed::NoSecret => id(Status::Skipped, format!("{}: its password is not available", camera.source)),
        Probed::Yes(Ok(seen)) => {
            let mut words = vec![format!("{}×{}", seen.width, seen.height)];
            words.extend(seen.codec.clone());
            words.extend(seen.fps.map(|fps| format!("{} frames/s", (fps * 10.0).round() / 10.0)));
            words.extend(seen.decoder.clone());
            words.push(format!("first picture after {:.1} s", seen.first_frame_s));
            id(Status::Ok, words.join(", "))
        }
        Probed::Yes(Err(reason)) => {
            let what = short(camera, reason);
            id(Status::Failed, format!("{}: {what}", camera.source)).fix(camera_fix(camera, reason))
        }
    }
}

/// The reason without what the line or the fix repeats.
fn short<'a>(camera: &CameraFacts, reason: &'a str) -> &'a str {
    if reason.contains("(404)") {
        return "the camera has no stream of this name (404)";
    }
    let what = reason.split_once(": check ").map_or(reason, |(what, _)| what);
    let what = what.strip_prefix(&format!("cannot play {}: ", camera.source)).unwrap_or(what);
    // GStreamer prefixes every failed connection with this.
    what.strip_prefix("Could not open resource for reading and writing: ").unwrap_or(what)
}

fn camera_fix(camera: &CameraFacts, reason: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if !camera.live {
        return format!("ls -l {}; is it a video that `ocelli detect` plays?", camera.source);
    }
    if has(&["401"]) {
        return "set `username` and `password` to those of the camera's web page; many cameras have separate users for RTSP".into();
    }
    if has(&["404", "Not found", "not found"]) {
        return "the camera answers, but has no such path: its manual or its ONVIF page names the RTSP address".into();
    }
    if has(&["is not installed"]) {
        return "see the section Video".into();
    }
    if has(&["no frame"]) {
        return "is the stream switched on in the camera? With `transport: udp`, does a firewall block its packets? Try `transport: tcp`".into();
    }
    "is the camera switched on and in this network, and is RTSP enabled? ping its address; `ocelli detect URL` tries again".into()
}
