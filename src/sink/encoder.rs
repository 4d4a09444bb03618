//! The H.264 encoder of this machine, chosen at run time: one binary runs on Jetsons with and without an encoder chip, on a
//! Raspberry Pi and on a server.

use gstreamer as gst;
use gstreamer::prelude::*;

/// Name of the encoder element in the lines of [`Encoder::launch`].
pub const ELEMENT_NAME: &str = "encoder";

#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    #[error("GStreamer cannot be initialised: {0}")]
    Gstreamer(#[from] gst::glib::Error),
    #[error(
        "no H.264 encoder works on this machine ({tried}); install one: `apt-get install gstreamer1.0-plugins-ugly` \
         (x264enc) or `apt-get install gstreamer1.0-plugins-bad` (openh264enc)"
    )]
    NoEncoder { tried: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A stream: low delay, fixed bit rate.
    Live { bitrate_kbps: u32 },
    /// A file: constant quality where the encoder can do that.
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Jetson,
    X264,
    OpenH264,
    V4l2,
}

/// Best first: the Jetson's encoder needs no CPU; x264 is the best software encoder. V4L2 comes last, because its quality
/// depends on the driver.
const CANDIDATES: [Kind; 4] = [Kind::Jetson, Kind::X264, Kind::OpenH264, Kind::V4l2];

impl Kind {
    const fn element(self) -> &'static str {
        match self {
            Self::Jetson => "nvv4l2h264enc",
            Self::X264 => "x264enc",
            Self::OpenH264 => "openh264enc",
            Self::V4l2 => "v4l2h264enc",
        }
    }

    const fn is_hardware(self) -> bool {
        matches!(self, Self::Jetson | Self::V4l2)
    }

    /// Other elements in the launch line of this encoder.
    const fn companions(self) -> &'static [&'static str] {
        match self {
            Self::Jetson => &["nvvidconv"],
            Self::X264 => &["videoscale"],
            Self::OpenH264 | Self::V4l2 => &["videoscale", "videoconvert"],
        }
    }

    /// Opens the encoder once: a Jetson without the chip has the element, but not the device.
    fn check(self) -> Result<String, String> {
        for companion in self.companions() {
            if gst::ElementFactory::find(companion).is_none() {
                return Err(format!("{}: needs {companion}, which is not installed", self.element()));
            }
        }
        let Some(factory) = gst::ElementFactory::find(self.element()) else {
            return Err(format!("{}: not installed", self.element()));
        };
        let element = factory.create().build().map_err(|e| format!("{}: {e}", self.element()))?;
        let opened = element.set_state(gst::State::Ready);
        let _ = element.set_state(gst::State::Null);
        opened.map_err(|_| format!("{}: present, but its device cannot be opened", self.element()))?;
        let origin = factory.plugin().map(|p| format!("{} {}", p.source(), p.version())).unwrap_or_default();
        Ok(origin)
    }
}

#[derive(Debug, Clone)]
pub struct Encoder {
    kind: Kind,
    origin: String,
}

/// The best encoder that is installed and can be opened.
pub fn choose() -> Result<Encoder, EncoderError> {
    gst::init()?;
    let mut tried = Vec::new();
    for kind in CANDIDATES {
        match kind.check() {
            Ok(origin) => return Ok(Encoder { kind, origin }),
            Err(reason) => tried.push(reason),
        }
    }
    Err(EncoderError::NoEncoder { tried: tried.join("; ") })
}

/// One candidate, for `ocelli doctor`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EncoderPlan {
    pub element: String,
    pub hardware: bool,
    /// Why it cannot be used, for example `x264enc: not installed`; `None`: it opens.
    pub trouble: Option<String>,
}

/// All candidates, best first: [`choose`] takes the first that opens.
pub fn plan() -> Result<Vec<EncoderPlan>, EncoderError> {
    gst::init()?;
    let of = |kind: Kind| EncoderPlan {
        element: kind.element().into(),
        hardware: kind.is_hardware(),
        trouble: kind.check().err(),
    };
    Ok(CANDIDATES.into_iter().map(of).collect())
}

impl Encoder {
    /// For logs: `x264enc (software, gst-plugins-ugly 1.22.0)`.
    pub fn description(&self) -> String {
        let place = if self.is_hardware() { "hardware" } else { "software" };
        format!("{} ({place}, {})", self.element(), self.origin)
    }

    pub fn element(&self) -> &'static str {
        self.kind.element()
    }

    pub fn is_hardware(&self) -> bool {
        self.kind.is_hardware()
    }

    /// Part of a launch line: I420 or NV12 in system memory to H.264. The encoder element is named [`ELEMENT_NAME`].
    pub fn launch(&self, purpose: Purpose) -> String {
        // H.264 with 4:2:0 has even sizes only; videoscale passes those through unchanged.
        let even = "videoscale ! video/x-raw,width=(int)[2,16384,2],height=(int)[2,16384,2]";
        let kbps = match purpose {
            Purpose::Live { bitrate_kbps } => bitrate_kbps.clamp(64, 200_000),
            Purpose::File => 8000,
        };
        let bps = kbps * 1000;
        // One thread encodes 1080p30 in a quarter of a core; more threads add latency and disturb the detector's caches.
        let threads = if std::thread::available_parallelism().is_ok_and(|n| n.get() >= 4) { 2 } else { 1 };
        let name = ELEMENT_NAME;
        match (self.kind, purpose) {
            (Kind::X264, Purpose::Live { .. }) => format!(
                "{even} ! x264enc name={name} tune=zerolatency speed-preset=ultrafast bitrate={kbps} \
                 key-int-max=60 threads={threads} ! video/x-h264,profile=constrained-baseline"
            ),
            (Kind::X264, Purpose::File) => format!(
                "{even} ! x264enc name={name} speed-preset=superfast bframes=0 pass=qual quantizer=23 key-int-max=250 \
                 threads={threads} ! video/x-h264,profile=high"
            ),
            (Kind::OpenH264, _) => format!(
                "{even} ! videoconvert ! openh264enc name={name} complexity=low rate-control=bitrate bitrate={bps} \
                 gop-size=60 ! video/x-h264,profile=constrained-baseline"
            ),
            (Kind::Jetson, _) => format!(
                "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc name={name} bitrate={bps} \
                 insert-sps-pps=true iframeinterval=60 idrinterval=60 maxperf-enable=true preset-level=1"
            ),
            (Kind::V4l2, _) => format!(
                "{even} ! videoconvert ! v4l2h264enc name={name} \
                 extra-controls=\"controls,repeat_sequence_header=1,video_bitrate={bps},h264_i_frame_period=60\" \
                 ! video/x-h264,level=(string)4"
            ),
        }
    }

    /// Sets the number of frames from one key frame to the next, where the encoder has a property for it.
    pub fn set_key_interval(&self, element: &gst::Element, frames: u32) {
        let properties: &[&str] = match self.kind {
            Kind::X264 => &["key-int-max"],
            Kind::OpenH264 => &["gop-size"],
            Kind::Jetson => &["iframeinterval", "idrinterval"],
            Kind::V4l2 => &[],
        };
        for property in properties {
            if element.find_property(property).is_some() {
                element.set_property_from_str(property, &frames.max(1).to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_chosen_encoder_makes_h264_of_both_formats_and_odd_sizes() {
        let encoder = choose().unwrap();
        assert!(encoder.description().starts_with(encoder.element()));
        for purpose in [Purpose::Live { bitrate_kbps: 500 }, Purpose::File] {
            for caps in ["I420,width=320,height=240", "NV12,width=320,height=240", "I420,width=321,height=241"] {
                let line = format!(
                    "videotestsrc num-buffers=3 ! video/x-raw,format={caps} ! {} ! h264parse ! fakesink name=out",
                    encoder.launch(purpose)
                );
                let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
                encoder.set_key_interval(&pipeline.by_name(ELEMENT_NAME).unwrap(), 2);
                pipeline.set_state(gst::State::Playing).unwrap();
                let types = [gst::MessageType::Eos, gst::MessageType::Error];
                let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(30), &types);
                pipeline.set_state(gst::State::Null).unwrap();
                assert!(matches!(end.unwrap().view(), gst::MessageView::Eos(_)), "{line}");
            }
        }
    }

    #[test]
    fn the_plan_and_the_choice_agree() {
        let plan = plan().unwrap();
        let first = plan.iter().find(|encoder| encoder.trouble.is_none()).unwrap();
        assert_eq!(first.element, choose().unwrap().element());
        assert_eq!(plan.len(), CANDIDATES.len());
    }

    #[test]
    fn without_an_encoder_the_message_names_the_package() {
        let message = EncoderError::NoEncoder { tried: "x264enc: not installed".into() }.to_string();
        assert!(message.contains("gstreamer1.0-plugins-ugly") && message.contains("x264enc: not installed"));
    }
}
