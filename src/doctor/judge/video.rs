//! GStreamer: decoders and encoders.

use super::{install, listed};
use crate::config::{Config, SourceConfig};
use crate::doctor::check::{Check, Section, Status};
use crate::doctor::facts::Facts;
use crate::doctor::media::Media;
use crate::source::{CodecPlan, ElementPlan};

/// Oldest GStreamer that works: JetPack 5's.
const OLDEST: (u32, u32) = (1, 16);

fn check(id: impl Into<String>, status: Status, detail: impl Into<String>) -> Check {
    Check::new(Section::Video, id, status, detail)
}

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let media = match &facts.media {
        Ok(media) => media,
        Err(reason) => {
            return vec![
                check("gstreamer", Status::Failed, format!("it cannot be checked: {reason}")).named("GStreamer").fix(
                    "rm -rf ~/.cache/gstreamer-1.0, then GST_DEBUG=GST_PLUGIN_LOADING:5 ocelli probe-media shows the plugin",
                ),
            ];
        }
    };
    let mut checks = vec![version(media)];
    checks.extend(broken(media));
    // Without a configuration: RTSP cameras and annotated streams, as by default.
    let config = facts.scope.config.as_ref();
    let uses = |default: bool, kind: fn(&SourceConfig) -> bool| {
        let any = |config: &Config| config.cameras.iter().any(|camera| camera.enabled && kind(&camera.source));
        config.map_or(default, any)
    };
    let cameras = uses(true, |source| matches!(source, SourceConfig::Rtsp { .. }));
    let output = config.is_none_or(|config| config.rtsp.is_some());
    checks.push(elements(facts, media, "input.rtsp", "RTSP input", &media.source.rtsp, cameras));
    // Checked only where such a camera is configured: a PC has none of NVIDIA's elements.
    if uses(false, |source| matches!(source, SourceConfig::Usb { .. })) {
        checks.push(elements(facts, media, "input.usb", "USB input", &media.source.usb, true));
    }
    if uses(false, |source| matches!(source, SourceConfig::Csi { .. })) {
        checks.push(elements(facts, media, "input.csi", "CSI input", &media.source.csi, true));
    }
    let files = uses(false, |source| matches!(source, SourceConfig::File { .. }));
    checks.push(elements(facts, media, "input.file", "file input", &media.source.file, files));
    checks.extend(media.source.codecs.iter().map(|codec| decoding(facts, media, codec, cameras)));
    checks.push(encoding(facts, media, output));
    checks.push(elements(facts, media, "output.rtsp", "RTSP output", &media.output, output));
    checks
}

fn version(media: &Media) -> Check {
    let numbers: Vec<u32> = media.version.split('.').filter_map(|part| part.parse().ok()).collect();
    let old = matches!(numbers.as_slice(), [major, minor, ..] if (*major, *minor) < OLDEST);
    let (major, minor) = OLDEST;
    match old {
        false => check("gstreamer", Status::Ok, media.version.clone()),
        true => check("gstreamer", Status::Failed, format!("{} is too old: {major}.{minor} is needed", media.version))
            .fix("upgrade the system: JetPack 5, Ubuntu 20.04 and Debian 11 are the oldest that have it"),
    }
    .named("GStreamer")
}

fn broken(media: &Media) -> Option<Check> {
    let first = media.broken.first()?;
    let detail = match media.broken.len() {
        1 => format!("{first} does not load"),
        count => format!("{count} do not load: {}", media.broken.join(", ")),
    };
    let fix = format!("ldd {first} shows what is missing; once fixed: rm -rf ~/.cache/gstreamer-1.0");
    Some(check("plugins", Status::Warning, detail).named("plugins").fix(fix))
}

/// The elements of `needed` that are missing; a failure if they are `used`.
fn elements(facts: &Facts, media: &Media, id: &str, name: &str, needed: &[ElementPlan], used: bool) -> Check {
    let missing: Vec<&ElementPlan> = needed.iter().filter(|element| !element.installed).collect();
    if missing.is_empty() {
        let names: Vec<&str> = needed.iter().map(|element| element.element.as_str()).collect();
        return check(id, Status::Ok, names.join(", ")).named(name);
    }
    let names: Vec<String> = missing.iter().map(|element| absent(media, &element.element)).collect();
    if !used {
        return check(id, Status::Skipped, format!("{}; not used by this configuration", names.join(", "))).named(name);
    }
    check(id, Status::Failed, names.join(", "))
        .named(name)
        .fix(install(facts, missing.iter().map(|element| element.package.as_str())))
}

/// `x264enc is not installed`, or that its plugin does not load.
fn absent(media: &Media, element: &str) -> String {
    let file = format!("libgst{}.so", plugin(element));
    match media.broken.iter().any(|broken| broken.ends_with(&file)) {
        true => format!("{element} is not usable ({file} does not load)"),
        false => format!("{element} is not installed"),
    }
}

/// The plugin that contains an element.
fn plugin(element: &str) -> &str {
    match element {
        "x264enc" => "x264",
        "openh264enc" | "openh264dec" => "openh264",
        "h264parse" | "h265parse" => "videoparsersbad",
        "rtspsrc" => "rtsp",
        "rtpbin" | "rtpjitterbuffer" => "rtpmanager",
        "udpsrc" => "udp",
        "appsink" | "appsrc" => "app",
        "videoconvert" => "videoconvertscale",
        "filesrc" | "typefind" | "capsfilter" => "coreelements",
        "jpegdec" => "jpeg",
        "nvvidconv" => "nvvidconv",
        _ if element.starts_with("avdec_") => "libav",
        _ if element.starts_with("nvv4l2") => "nvvideo4linux2",
        _ if element.starts_with("v4l2sl") => "v4l2codecs",
        _ if element.starts_with("v4l2") => "video4linux2",
        _ if element.starts_with("rtp") => "rtp",
        other => other,
    }
}

fn place(hardware: bool) -> &'static str {
    if hardware { "hardware" } else { "software" }
}

fn decoding(facts: &Facts, media: &Media, codec: &CodecPlan, used: bool) -> Check {
    let short = codec.codec.to_lowercase().replace('.', "");
    let id = |status, detail: String| {
        check(format!("decode.{short}"), status, detail).named(format!("{} input", codec.codec))
    };
    // Nearly all cameras can send H.264; other codecs are needed only by some.
    let missing = |detail: String, packages: Vec<&str>| match (used, codec.codec == "H.264") {
        (false, _) => id(Status::Skipped, format!("{detail}; no RTSP camera is enabled")),
        (true, true) => id(Status::Failed, detail).fix(install(facts, packages)),
        (true, false) => id(Status::Warning, detail).fix(install(facts, packages)),
    };
    let absent_elements: Vec<&ElementPlan> = codec.elements.iter().filter(|element| !element.installed).collect();
    if !absent_elements.is_empty() {
        let names: Vec<String> = absent_elements.iter().map(|element| absent(media, &element.element)).collect();
        return missing(names.join(", "), absent_elements.iter().map(|element| element.package.as_str()).collect());
    }
    let Some(chosen) = codec.chosen() else {
        let names: Vec<&str> = codec.decoders.iter().map(|decoder| decoder.element.as_str()).collect();
        // The software decoder works everywhere.
        let best = codec.decoders.iter().find(|decoder| !decoder.hardware);
        let broken = best.map(|best| absent(media, &best.element)).filter(|text| text.contains("does not load"));
        let more = broken.map(|text| format!(" ({text})")).unwrap_or_default();
        return missing(
            format!("none of its decoders works: {}{more}", listed(&names)),
            best.iter().map(|best| best.package.as_str()).collect(),
        );
    };
    let detail = format!("{} ({})", chosen.element, place(chosen.hardware));
    let jetson = codec.decoders.iter().find(|decoder| decoder.element.starts_with("nvv4l2"));
    match (facts.board.jetson.is_some(), jetson) {
        (true, Some(jetson)) if !chosen.hardware => {
            let reason = jetson.trouble.as_deref().unwrap_or("is not taken");
            let fix = match reason {
                "is not installed" => install(facts, [jetson.package.as_str()]),
                _ => "see the line `devices`: the decoder is opened through them".to_owned(),
            };
            id(Status::Warning, format!("{detail}: {} {reason}", jetson.element)).fix(fix)
        }
        _ => id(Status::Ok, detail),
    }
}

fn encoding(facts: &Facts, media: &Media, used: bool) -> Check {
    let id = |status, detail: String| check("encode.h264", status, detail).named("H.264 output");
    let Some(chosen) = media.encoders.iter().find(|encoder| encoder.trouble.is_none()) else {
        let tried: Vec<&str> = media.encoders.iter().filter_map(|encoder| encoder.trouble.as_deref()).collect();
        let broken = absent(media, "x264enc");
        let more = if broken.contains("does not load") { format!(" ({broken})") } else { String::new() };
        let detail = format!("no encoder works: {}{more}", tried.join("; "));
        return match used {
            true => {
                // Scaling and conversion come before any encoder.
                let base = tried.iter().any(|trouble| trouble.contains("needs video"));
                let packages = [base.then_some("gstreamer1.0-plugins-base"), Some("gstreamer1.0-plugins-ugly")];
                id(Status::Failed, detail).fix(install(facts, packages.into_iter().flatten()))
            }
            false => id(Status::Skipped, format!("{detail}; `rtsp` is switched off")),
        };
    };
    let detail = format!("{} ({})", chosen.element, place(chosen.hardware));
    let Some(jetson) = facts.board.jetson.as_ref().filter(|_| !chosen.hardware) else {
        return id(Status::Ok, detail);
    };
    if jetson.no_encoder {
        return id(Status::Ok, format!("{detail}: this module has no encoder chip"));
    }
    let nvidias = media.encoders.iter().find(|encoder| encoder.element.starts_with("nvv4l2"));
    let reason = nvidias.and_then(|encoder| encoder.trouble.as_deref()).unwrap_or_default();
    let fix = match reason.contains("not installed") {
        true => install(facts, ["nvidia-l4t-gstreamer"]),
        false => "see the line `devices`: the encoder is opened through them".to_owned(),
    };
    id(Status::Warning, format!("{detail}; {reason}")).fix(fix)
}
