//! The RTSP server of a simulated camera: its encoder, its user, its viewers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gst_rtsp;
use gstreamer_rtsp_server::prelude::*;

use super::config::SimulatorConfig;
use super::slot::Shared;
use crate::source::error::{SourceError, missing};

/// Dead connections leave their sessions behind; they are removed this often.
const SWEEP: Duration = Duration::from_secs(2);
/// The role of the one user of a protected camera.
const ROLE: &str = "viewer";

/// Frames from one keyframe to the next: one second, so that a new viewer sees a picture soon.
fn key_interval(fps: f64) -> u32 {
    (fps.round() as u32).clamp(1, 30)
}

/// The encoder's part of the launch line. Constant quality: tests read the frames, and bandwidth does not matter.
pub(super) fn encoder() -> Result<&'static str, SourceError> {
    if gst::ElementFactory::find("x264enc").is_some() {
        return Ok(
            "x264enc speed-preset=ultrafast tune=zerolatency threads=1 pass=qual quantizer=21 key-int-max=KEY_INTERVAL",
        );
    }
    if gst::ElementFactory::find("openh264enc").is_some() {
        return Ok("openh264enc complexity=low bitrate=8000000 gop-size=KEY_INTERVAL");
    }
    Err(missing("x264enc"))
}

pub(super) fn host(address: &SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

/// Listens, with frames from `shared`, on a main loop of `context`.
pub(super) fn listen(
    config: &SimulatorConfig,
    shared: &Arc<Shared>,
    encoder: &str,
    fps: f64,
    context: &glib::MainContext,
) -> Result<gst_rtsp_server::RTSPServer, SourceError> {
    let encoder = encoder.replace("KEY_INTERVAL", &key_interval(fps).to_string());
    let server = gst_rtsp_server::RTSPServer::new();
    server.set_address(&config.listen.ip().to_string());
    server.set_service(&config.listen.port().to_string());
    let factory = gst_rtsp_server::RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( appsrc name=input is-live=true format=time ! {encoder} ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    ));
    factory.set_shared(true);
    factory.set_latency(0);
    if let Some((user, password)) = &config.credentials {
        protect(&server, &factory, user, password);
    }
    let weak = Arc::downgrade(shared);
    factory.connect_media_configure(move |_, media| {
        if let Some(shared) = weak.upgrade() {
            shared.prepared(media);
        }
    });
    let mounts =
        server.mount_points().ok_or_else(|| SourceError::Build("an RTSP server without mount points".into()))?;
    mounts.add_factory(&format!("/{}", config.path), factory);
    let pool = server.session_pool();
    let sweep = glib::timeout_source_new(SWEEP, None, glib::Priority::DEFAULT, move || {
        if let Some(pool) = &pool {
            pool.cleanup();
        }
        glib::ControlFlow::Continue
    });
    sweep.attach(Some(context));
    server.attach(Some(context)).map_err(|_| {
        SourceError::Build(format!("cannot listen on {}: is the address in use? Try another --listen", config.listen))
    })?;
    Ok(server)
}

fn protect(
    server: &gst_rtsp_server::RTSPServer,
    factory: &gst_rtsp_server::RTSPMediaFactory,
    user: &str,
    password: &str,
) {
    let auth = gst_rtsp_server::RTSPAuth::new();
    auth.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
    let token = gst_rtsp_server::RTSPToken::builder().field("media.factory.role", ROLE).build();
    auth.add_digest(user, password, &token);
    server.set_auth(Some(&auth));
    let allowed = gst::Structure::builder(ROLE)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&allowed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_come_every_second() {
        assert_eq!([0.0, 0.4, 10.0, 25.0, 240.0, f64::NAN].map(key_interval), [1, 1, 10, 25, 30, 1]);
    }
}
