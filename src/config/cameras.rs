//! The cameras: where each one's video comes from, what it inherits, and what two of them must not share.

use super::check::{Given, Group};
use super::error::Problem;
use super::keys;
use super::resolve::{PathKind, Resolver};
use super::resolved::Config;
use super::resolved_camera::{CameraConfig, Capture, DetectConfig, ReconnectConfig, SourceConfig};
use super::value::{is_camera_name, nearest};
use super::view::{View, located, url};
use crate::types::{DEFAULT_MODEL, Url};

/// Keys that only an RTSP source reads.
const STREAM_ONLY: [&str; 4] = ["username", "password", "transport", "latency"];
/// Keys that no file reads.
const RTSP_ONLY: [&str; 5] = ["username", "password", "transport", "latency", "reconnect"];
/// Keys that only a camera on this box reads.
const LOCAL_ONLY: [&str; 3] = ["size", "framerate", "format"];
/// Keys that only a file reads.
const FILE_ONLY: [&str; 2] = ["loop", "realtime"];

/// All cameras, sorted by name.
pub(crate) fn cameras(root: &Group, resolver: &mut Resolver<'_>) -> Vec<CameraConfig> {
    if root.named("cameras").is_empty() && !root.mentions("cameras") {
        resolver.errors.push(
            Problem::new("there is no camera")
                .at(&root.pos)
                .hint("add for example `cameras: {gate: \"rtsp://10.0.0.5/stream1\"}`"),
        );
    }
    let defaults = root.group("defaults");
    waits(&View::new(&keys::RECONNECT, [defaults.and_then(|group| group.group("reconnect"))]), resolver);
    let mut cameras: Vec<CameraConfig> = root
        .named("cameras")
        .iter()
        .filter(|(name, _, _)| is_camera_name(name))
        .filter_map(|(name, _, group)| camera(name, group, defaults, resolver))
        .collect();
    cameras.sort_by(|a, b| a.name.cmp(&b.name));
    cameras
}

fn camera(name: &str, group: &Group, defaults: Option<&Group>, resolver: &mut Resolver<'_>) -> Option<CameraConfig> {
    let view = View::of(group);
    let enabled = view.boolean("enabled");
    let source = source(name, group, enabled, resolver)?;
    let detect = [group.group("detect"), defaults.and_then(|group| group.group("detect"))];
    let reconnect = [group.group("reconnect"), defaults.and_then(|group| group.group("reconnect"))];
    let reconnect_view = View::new(&keys::RECONNECT, reconnect);
    if group.group("reconnect").is_some() {
        waits(&reconnect_view, resolver);
    }
    Some(CameraConfig {
        name: name.into(),
        enabled,
        source,
        detect: detect_config(&View::new(&keys::DETECT, detect)),
        reconnect: reconnect_config(&reconnect_view),
    })
}

/// The keys that say where the video comes from.
const KINDS: [&str; 4] = ["url", "usb", "csi", "file"];

fn source(name: &str, group: &Group, enabled: bool, resolver: &mut Resolver<'_>) -> Option<SourceConfig> {
    let given: Vec<(&str, &Given)> = KINDS.iter().filter_map(|kind| Some((*kind, group.given(kind)?))).collect();
    match *given.as_slice() {
        [("url", given)] => rtsp_source(name, group, given, resolver),
        [("file", given)] => {
            useless(name, group, &[&RTSP_ONLY[..], &LOCAL_ONLY].concat(), "a file", resolver);
            if enabled {
                resolver.must_exist(group, "file", &format!("the video of `cameras.{name}`"), &[PathKind::File]);
            }
            let view = View::of(group);
            Some(SourceConfig::File {
                path: located(given)?,
                looped: view.boolean("loop"),
                realtime: view.boolean("realtime"),
            })
        }
        [(kind, given)] => local_source(name, group, kind, given, resolver),
        [(one, _), (other, second), ..] => {
            resolver.errors.push(
                Problem::new(format!("`cameras.{name}` has both `{one}` and `{other}`"))
                    .at(&second.pos)
                    .hint("keep one of them (`null` takes away what an earlier file set)"),
            );
            None
        }
        [] => {
            if !KINDS.iter().any(|kind| group.mentions(kind)) {
                resolver.errors.push(
                    Problem::new(format!("`cameras.{name}` has neither `url` nor `file` (nor `usb` or `csi`)"))
                        .at(&group.pos)
                        .hint("add `url: rtsp://…` or `usb: /dev/video0` for a camera, or `file: …` for a video"),
                );
            }
            None
        }
    }
}

/// A camera on this box. Its device may be plugged in later, so it need not be there yet.
fn local_source(
    name: &str,
    group: &Group,
    kind: &str,
    given: &Given,
    resolver: &mut Resolver<'_>,
) -> Option<SourceConfig> {
    let what = if kind == "usb" { "a USB camera" } else { "a CSI camera" };
    let format: &[&str] = if kind == "usb" { &[] } else { &["format"] };
    useless(name, group, &[&STREAM_ONLY[..], &FILE_ONLY, format].concat(), what, resolver);
    let view = View::of(group);
    let framerate = view.integer("framerate").map(|rate| rate as u32);
    let capture = Capture { size: view.size("size"), framerate };
    match kind {
        "usb" => Some(SourceConfig::Usb { device: located(given)?, format: view.word("format"), capture }),
        _ => Some(SourceConfig::Csi { sensor: view.integer("csi")? as u32, capture }),
    }
}

fn rtsp_source(name: &str, group: &Group, given: &Given, resolver: &mut Resolver<'_>) -> Option<SourceConfig> {
    useless(name, group, &[&FILE_ONLY[..], &LOCAL_ONLY].concat(), "an RTSP camera", resolver);
    let url = url(given)?;
    let (username, password) = resolver.credentials(group, &format!("cameras.{name}"), Some((given, &url)));
    let view = View::of(group);
    Some(SourceConfig::Rtsp {
        url: url.without_credentials(),
        username,
        password,
        transport: view.word("transport"),
        latency: view.duration("latency"),
    })
}

/// Keys that the kind of source does not read: believed to work, they would not.
fn useless(name: &str, group: &Group, keys: &[&str], source: &str, resolver: &mut Resolver<'_>) {
    for key in keys {
        let pos = group.given(key).map(|given| &given.pos).or(group.group(key).map(|group| &group.pos));
        if let Some(pos) = pos {
            resolver.errors.push(
                Problem::new(format!("`cameras.{name}.{key}` has no effect on {source}")).at(pos).hint("remove it"),
            );
        }
    }
}

fn detect_config(view: &View<'_>) -> DetectConfig {
    DetectConfig {
        fps: view.number("fps"),
        threshold: view.number("threshold").unwrap_or(0.0) as f32,
        iou: view.number("iou").unwrap_or(0.0) as f32,
        max_detections: view.integer("max_detections").unwrap_or(1) as usize,
        priority: view.word("priority"),
        model: view.text("model").unwrap_or_else(|| DEFAULT_MODEL.into()),
        labels: view.texts("labels"),
    }
}

fn reconnect_config(view: &View<'_>) -> ReconnectConfig {
    ReconnectConfig {
        no_frame: view.duration("no_frame"),
        first: view.duration("first"),
        max: view.duration("max"),
        jitter: view.number("jitter").unwrap_or(0.0),
    }
}

/// The first wait may not be longer than the longest.
fn waits(view: &View<'_>, resolver: &mut Resolver<'_>) {
    let (first, max) = (view.duration("first"), view.duration("max"));
    if first <= max {
        return;
    }
    let (first, max) = (humantime::format_duration(first), humantime::format_duration(max));
    let problem = Problem::new(format!("`reconnect.first` ({first}) is longer than `reconnect.max` ({max})"))
        .hint("`first` doubles up to `max`");
    resolver.errors.push(match view.given("first").or_else(|| view.given("max")) {
        Some(given) => problem.at(&given.pos),
        None => problem,
    });
}

/// What two cameras, or a camera and a sink, must not share.
pub(crate) fn across(root: &Group, config: &Config, resolver: &mut Resolver<'_>) {
    let pos =
        |name: &str| root.named("cameras").iter().find(|(known, _, _)| known == name).map(|(_, pos, _)| pos.clone());
    let at = |problem: Problem, name: &str| match pos(name) {
        Some(pos) => problem.at(&pos),
        None => problem,
    };
    for (index, camera) in config.cameras.iter().enumerate() {
        let name = &camera.name;
        if config.model_of(camera).is_none() {
            let (wanted, known) = (&camera.detect.model, config.models.keys().map(String::as_str));
            let hint = match nearest(wanted, known.chain([DEFAULT_MODEL])) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add it: `models: {{{wanted}: path/to/{wanted}.onnx}}`"),
            };
            let text = format!("`cameras.{name}` asks for the model `{wanted}`, which is not among `models`");
            resolver.errors.push(at(Problem::new(text).hint(hint), name));
        }
        for other in &config.cameras[..index] {
            if name.replace('-', "_") == other.name.replace('-', "_") {
                let text = format!("the cameras `{}` and `{name}` differ only in `-` and `_`", other.name);
                resolver
                    .warnings
                    .push(at(Problem::new(text).hint("programs that read the messages may mix them up"), name));
            }
            if camera.enabled && other.enabled && camera.source == other.source && camera.source.is_live() {
                let text = format!("the cameras `{}` and `{name}` have the same address", other.name);
                resolver
                    .warnings
                    .push(at(Problem::new(text).hint("is one of the addresses a copy that was to be changed?"), name));
            }
        }
        if let SourceConfig::File { path, .. } = &camera.source
            && config.jsonl.as_ref().is_some_and(|jsonl| jsonl.file == *path)
        {
            let text = format!("`jsonl.file` would overwrite the video of `cameras.{name}`");
            resolver.errors.push(at(Problem::new(text).hint("name another file"), name));
        }
        if let (SourceConfig::Rtsp { url, .. }, Some(rtsp)) = (&camera.source, &config.rtsp)
            && Url::parse(url).is_ok_and(|url| url.is_loopback() && url.port.unwrap_or(554) == rtsp.listen.port())
        {
            let text = format!("`cameras.{name}` reads from the port of Ocelli's own RTSP server ({})", rtsp.listen);
            resolver.errors.push(at(
                Problem::new(text).hint("give `rtsp.listen` another port, or correct the camera's address"),
                name,
            ));
        }
    }
}
