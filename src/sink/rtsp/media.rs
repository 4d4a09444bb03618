//! The part of a view that lives and dies with the viewers: encoder and payloader, made by the RTSP library when the
//! first viewer comes and taken down when the last one has gone.

use std::sync::{Arc, Weak};

use gstreamer as gst;
use gstreamer::glib::subclass::prelude::ObjectSubclassIsExt;
use gstreamer::glib::translate::IntoGlib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp as gst_rtsp;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_video as gst_video;

use super::view::Shared;
use crate::sink::encoder::{ELEMENT_NAME, Encoder, Purpose};

/// Frames that may wait for the encoder; one more is dropped, because the encoder is the bottleneck then.
const QUEUED_FRAMES: u64 = 2;

/// The elements of a stream besides the encoder's; the last one is what the RTSP library makes for itself.
pub const ELEMENTS: [&str; 4] = ["appsrc", "h264parse", "rtph264pay", "rtpbin"];

/// Where frames go while somebody watches.
#[derive(Clone)]
pub(super) struct Outlet {
    /// Tells one media from the next.
    pub(super) generation: u64,
    appsrc: gst_app::AppSrc,
    element: Option<gst::Element>,
    encoder: Arc<Encoder>,
}

impl Outlet {
    /// True when the encoder is behind and one frame more would only wait.
    pub(super) fn is_full(&self, frame_bytes: usize) -> bool {
        // `current-level-buffers` came with GStreamer 1.20; bytes are there since 1.2.
        self.appsrc.current_level_bytes() >= QUEUED_FRAMES * frame_bytes as u64
    }

    /// Time of the running stream in nanoseconds; `None` while it is being prepared.
    pub(super) fn running_time(&self) -> Option<u64> {
        let (clock, base) = (self.appsrc.clock()?, self.appsrc.base_time()?);
        // READY and PAUSED keep the clock of an earlier run.
        (self.appsrc.current_state() == gst::State::Playing).then_some(())?;
        clock.time().checked_sub(base).map(gst::ClockTime::nseconds)
    }

    /// For logs: in which state the encoder's source is, and how much waits in it.
    pub(super) fn state(&self) -> String {
        format!("{:?}, {} bytes wait", self.appsrc.current_state(), self.appsrc.current_level_bytes())
    }

    /// Announces the layout of the frames that follow, and two seconds between key frames.
    pub(super) fn set_format(&self, info: &gst_video::VideoInfo) -> Result<(), gst::glib::BoolError> {
        self.appsrc.set_caps(Some(&info.to_caps()?));
        let fps = info.fps();
        let fps = if fps.denom() > 0 && fps.numer() > 0 { fps.numer() / fps.denom() } else { 25 };
        if let Some(element) = &self.element {
            self.encoder.set_key_interval(element, (fps.clamp(1, 120) * 2) as u32);
        }
        Ok(())
    }

    /// Hands a buffer to the encoder. An error means that this media is going down.
    pub(super) fn push(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        self.appsrc.push_buffer(buffer).map(|_| ())
    }

    /// Asks for a key frame, so that a viewer who joins has a picture at once.
    pub(super) fn request_key_frame(&self) {
        if let Some(pad) = self.element.as_ref().and_then(|e| e.static_pad("src")) {
            // Encoders that do not know the event make their key frame every two seconds anyway.
            pad.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
    }
}

/// What the RTSP library needs to make the media of `shared` for its viewers.
pub(super) fn factory(
    shared: &Arc<Shared>,
    encoder: &Arc<Encoder>,
    bitrate_kbps: u32,
) -> gst_rtsp_server::RTSPMediaFactory {
    let factory = Factory::new(shared);
    factory.set_launch(&format!(
        "( appsrc name=source format=time is-live=true do-timestamp=false block=false ! {} ! h264parse ! \
         rtph264pay name=pay0 pt=96 config-interval=-1 )",
        encoder.launch(Purpose::Live { bitrate_kbps })
    ));
    factory.set_shared(true);
    factory.set_latency(0);
    // No end-of-stream on the way down: the media would wait for it to come through, and while it waits, or for ever when
    // it got stuck, the next viewer is told 503.
    factory.set_eos_shutdown(false);
    factory.set_stop_on_disconnect(true);
    factory.set_protocols(gst_rtsp::RTSPLowerTrans::TCP | gst_rtsp::RTSPLowerTrans::UDP);
    // A key frame of 1080p leaves as one burst of UDP packets.
    factory.set_buffer_size(1 << 20);
    let (shared, encoder) = (Arc::downgrade(shared), encoder.clone());
    factory.connect_media_configure(move |_, media| configure(&shared, &encoder, media));
    factory.upcast()
}

gst::glib::wrapper! {
    /// Gives a viewer who comes while the last one's media goes down a new media. The library's own factory would hand
    /// out the one that is going, and tell the viewer 503.
    struct Factory(ObjectSubclass<key::Factory>) @extends gst_rtsp_server::RTSPMediaFactory;
}

impl Factory {
    fn new(shared: &Arc<Shared>) -> Self {
        let factory: Self = gst::glib::Object::new();
        // Set once, right here.
        let _ = factory.imp().shared.set(Arc::downgrade(shared));
        factory
    }
}

mod key {
    use std::sync::{OnceLock, Weak};

    use gstreamer::glib;
    use gstreamer::glib::subclass::prelude::*;
    use gstreamer_rtsp as gst_rtsp;
    use gstreamer_rtsp_server as gst_rtsp_server;
    use gstreamer_rtsp_server::subclass::prelude::*;

    use super::Shared;

    #[derive(Default)]
    pub(super) struct Factory {
        pub(super) shared: OnceLock<Weak<Shared>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Factory {
        const NAME: &'static str = "OcelliMediaFactory";
        type Type = super::Factory;
        type ParentType = gst_rtsp_server::RTSPMediaFactory;
    }

    impl ObjectImpl for Factory {}

    impl RTSPMediaFactoryImpl for Factory {
        fn gen_key(&self, _url: &gst_rtsp::RTSPUrl) -> Option<glib::GString> {
            let shared = self.shared.get()?.upgrade()?;
            Some(format!("{}#{}", shared.camera, shared.departures()).into())
        }
    }
}

fn configure(shared: &Weak<Shared>, encoder: &Arc<Encoder>, media: &gst_rtsp_server::RTSPMedia) {
    let Some(shared) = shared.upgrade() else { return };
    let Ok(bin) = media.element().downcast::<gst::Bin>() else { return };
    let Some(appsrc) = bin.by_name("source").and_then(|e| e.downcast::<gst_app::AppSrc>().ok()) else {
        tracing::error!(camera = %shared.camera, "the stream's pipeline has no appsrc: viewers get no picture");
        return;
    };
    let outlet = Outlet {
        generation: shared.next_generation(),
        appsrc,
        element: bin.by_name(ELEMENT_NAME),
        encoder: encoder.clone(),
    };
    let generation = outlet.generation;
    let weak = Arc::downgrade(&shared);
    let leaving = weak.clone();
    media.connect_target_state(move |_, state| {
        if state == gst::State::Null.into_glib()
            && let Some(shared) = leaving.upgrade()
        {
            shared.depart();
        }
    });
    media.connect_unprepared(move |_| {
        if let Some(shared) = weak.upgrade() {
            shared.detach(generation);
        }
    });
    shared.attach(outlet);
}
