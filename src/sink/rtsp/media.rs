//! Encoder and payloader of a view: made by the RTSP library when the first viewer connects, and removed when the last one
//! has disconnected.

use std::sync::{Arc, Weak};

use gstreamer as gst;
use gstreamer::glib::subclass::prelude::ObjectSubclassIsExt;
use gstreamer::glib::translate::IntoGlib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp as gst_rtsp;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;

use super::encoder_input::EncoderInput;
use super::shared::Shared;
use crate::sink::encoder::{ELEMENT_NAME, Encoder, Purpose};

/// The elements of a stream besides the encoder's; the RTSP library makes the last one itself.
pub const ELEMENTS: [&str; 4] = ["appsrc", "h264parse", "rtph264pay", "rtpbin"];

/// The factory with which the RTSP library makes the media of `shared`.
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
    // No end-of-stream at the end: the media would wait until it has passed, and new viewers would get 503 meanwhile.
    factory.set_eos_shutdown(false);
    factory.set_stop_on_disconnect(true);
    factory.set_protocols(gst_rtsp::RTSPLowerTrans::TCP | gst_rtsp::RTSPLowerTrans::UDP);
    // A key frame of 1080p is sent as one burst of UDP packets.
    factory.set_buffer_size(1 << 20);
    let (shared, encoder) = (Arc::downgrade(shared), encoder.clone());
    factory.connect_media_configure(move |_, media| configure(&shared, &encoder, media));
    factory.upcast()
}

gst::glib::wrapper! {
    /// Makes a new media for a viewer who connects while the previous media is being removed. The library's own factory
    /// would use the previous one, and the viewer would get 503.
    struct Factory(ObjectSubclass<key::Factory>) @extends gst_rtsp_server::RTSPMediaFactory;
}

impl Factory {
    fn new(shared: &Arc<Shared>) -> Self {
        let factory: Self = gst::glib::Object::new();
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
    let generation = shared.next_generation();
    let encoder_input = EncoderInput::new(generation, appsrc, bin.by_name(ELEMENT_NAME), encoder);
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
    shared.attach(encoder_input);
}
