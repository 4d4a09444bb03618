//! The pipelines of cameras that hang on the box itself: USB cameras, and sensors on a Jetson's CSI connector.

use std::path::{Path, PathBuf};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::SourceError;
use super::decoder::{Codec, downloaded};
use super::error::make;
use super::pipeline::{Fault, build, insert, tail};
use crate::config::{Capture, UsbFormat};

/// The elements of a USB camera's pipeline, besides the codec's.
pub(super) const USB_ELEMENTS: [&str; 3] = ["v4l2src", "capsfilter", "videoconvert"];
/// The elements of a CSI camera's pipeline.
pub(super) const CSI_ELEMENTS: [&str; 4] = ["nvarguscamerasrc", "nvvidconv", "capsfilter", "videoconvert"];

/// A camera on this box.
#[derive(Debug)]
pub(super) enum LocalSpec {
    /// Video4Linux.
    Usb { device: PathBuf, format: UsbFormat, capture: Capture },
    /// Jetson's own camera stack.
    Csi { sensor: u32, capture: Capture },
}

impl LocalSpec {
    /// The pipeline up to the sink.
    pub(super) fn pipeline(
        &self,
        callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
    ) -> Result<(gst::Pipeline, Fault), SourceError> {
        match self {
            Self::Usb { device, format, capture } => usb(device, *format, *capture, callbacks),
            Self::Csi { sensor, capture } => csi(*sensor, *capture, callbacks),
        }
    }
}

/// `v4l2src ! capsfilter ! decoder ! tail`. What follows the filter is added when the camera has said what it sends.
fn usb(
    device: &Path,
    format: UsbFormat,
    capture: Capture,
    callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
) -> Result<(gst::Pipeline, Fault), SourceError> {
    let path = device.to_str().ok_or_else(|| {
        SourceError::Stream(format!("the name of the device {} is not valid UTF-8", device.display()))
    })?;
    // Said before the driver is asked: its own words for it are `Cannot identify device`.
    if !device.exists() {
        return Err(SourceError::Stream(format!("there is no device {path}: is the camera plugged in?")));
    }
    let pipeline = gst::Pipeline::new();
    let (source, filter) = (make("v4l2src")?, make("capsfilter")?);
    source.set_property("device", path);
    filter.set_property("caps", usb_caps(format, capture));
    let head = tail(&pipeline, false, callbacks)?;
    pipeline.add_many([&source, &filter]).map_err(build)?;
    source.link(&filter).map_err(build)?;
    let fault = Fault::default();
    let pad = filter.static_pad("src").ok_or_else(|| build("capsfilter has no source pad"))?;
    let (weak, on_caps) = (pipeline.downgrade(), fault.clone());
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view()) else {
            return gst::PadProbeReturn::Ok;
        };
        let Some(pipeline) = weak.upgrade().filter(|_| !pad.is_linked()) else { return gst::PadProbeReturn::Ok };
        let media = event.caps().structure(0).map(|s| s.name().to_string()).unwrap_or_default();
        if let Err(error) = attach(&pipeline, pad, &media, &head) {
            on_caps.set(error, &pipeline);
        }
        gst::PadProbeReturn::Ok
    });
    Ok((pipeline, fault))
}

fn attach(pipeline: &gst::Pipeline, pad: &gst::Pad, media: &str, head: &gst::Pad) -> Result<(), SourceError> {
    match Codec::of_media(media) {
        Some(codec) => {
            tracing::debug!("camera sends {}", codec.name);
            insert(pipeline, pad, codec.packet_chain()?, head)
        }
        None => insert(pipeline, pad, Vec::new(), head),
    }
}

/// What a USB camera may send, best first: compressed pictures come at the full rate where raw ones do not fit the cable.
fn usb_caps(format: UsbFormat, capture: Capture) -> gst::Caps {
    let media: &[&str] = match format {
        UsbFormat::Auto => &["image/jpeg", "video/x-raw", "video/x-h264"],
        UsbFormat::Mjpeg => &["image/jpeg"],
        UsbFormat::Raw => &["video/x-raw"],
        UsbFormat::H264 => &["video/x-h264"],
    };
    media.iter().map(|media| structure(media, capture)).collect()
}

/// Pictures of a media type, of the size and the rate that are asked for.
fn structure(media: &str, capture: Capture) -> gst::Structure {
    let mut structure = gst::Structure::new_empty(media);
    if let Some(size) = capture.size {
        structure.set("width", size.w as i32);
        structure.set("height", size.h as i32);
    }
    if let Some(rate) = capture.framerate {
        structure.set("framerate", gst::Fraction::new(rate as i32, 1));
    }
    structure
}

/// `nvarguscamerasrc ! capsfilter ! nvvidconv ! tail`: the sensor writes NVMM memory, which is copied on the VIC.
fn csi(
    sensor: u32,
    capture: Capture,
    callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
) -> Result<(gst::Pipeline, Fault), SourceError> {
    let pipeline = gst::Pipeline::new();
    let (source, filter) = (make("nvarguscamerasrc")?, make("capsfilter")?);
    source.set_property_from_str("sensor-id", &sensor.to_string());
    let mut structure = structure("video/x-raw", capture);
    structure.set("format", "NV12");
    let mut caps = gst::Caps::new_empty();
    caps.make_mut().append_structure_full(structure, Some(gst::CapsFeatures::new(["memory:NVMM"])));
    filter.set_property("caps", caps);
    let head = tail(&pipeline, false, callbacks)?;
    let chain: Vec<gst::Element> = [source].into_iter().chain(downloaded(filter, "nvvidconv")?).collect();
    pipeline.add_many(&chain).map_err(build)?;
    gst::Element::link_many(&chain).map_err(build)?;
    let end = chain.last().and_then(|last| last.static_pad("src")).ok_or_else(|| build("no source pad"))?;
    end.link(&head).map_err(build)?;
    Ok((pipeline, Fault::default()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Size;

    #[test]
    fn a_usb_camera_is_asked_for_what_was_configured() {
        gst::init().unwrap();
        let plain = usb_caps(UsbFormat::Auto, Capture::default()).to_string();
        assert_eq!(plain, "image/jpeg; video/x-raw; video/x-h264");
        let capture = Capture { size: Some(Size::new(1280, 720)), framerate: Some(30) };
        let mjpeg = usb_caps(UsbFormat::Mjpeg, capture).to_string();
        assert!(mjpeg.starts_with("image/jpeg, width=(int)1280, height=(int)720, framerate=(fraction)30/1"), "{mjpeg}");
    }

    #[test]
    fn an_absent_device_is_named() {
        gst::init().unwrap();
        let usb =
            LocalSpec::Usb { device: "/dev/video-none".into(), format: UsbFormat::Auto, capture: Capture::default() };
        let error = usb.pipeline(|_| gst_app::AppSinkCallbacks::builder().build()).err().unwrap().to_string();
        assert!(error.contains("/dev/video-none") && error.contains("plugged in"), "{error}");
    }
}
