//! The pipelines of cameras on the box itself: USB cameras, and sensors on a Jetson's CSI connector.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::decoder::{Codec, downloaded};
use super::error::{SourceError, build, make};
use super::pipeline::{Draft, media_type};
use crate::config::{Capture, UsbFormat};

/// The elements of a USB camera's pipeline, besides the codec's.
pub(super) const USB_ELEMENTS: [&str; 3] = ["v4l2src", "capsfilter", "videoconvert"];
/// The elements of a CSI camera's pipeline.
pub(super) const CSI_ELEMENTS: [&str; 4] = ["nvarguscamerasrc", "nvvidconv", "capsfilter", "videoconvert"];

/// `v4l2src ! capsfilter ! decoder ! tail`. What follows the filter is added when the camera's stream is known.
pub(super) fn usb(device: &Path, format: UsbFormat, capture: Capture, draft: &Draft) -> Result<(), SourceError> {
    let path = device.to_str().ok_or_else(|| {
        SourceError::Stream(format!("the name of the device {} is not valid UTF-8", device.display()))
    })?;
    // Checked here because the driver's own error is only `Cannot identify device`.
    if !device.exists() {
        return Err(SourceError::Stream(format!("there is no device {path}: is the camera plugged in?")));
    }
    let (source, filter) = (make("v4l2src")?, make("capsfilter")?);
    source.set_property("device", path);
    filter.set_property("caps", usb_caps(format, capture));
    draft.pipeline.add_many([&source, &filter]).map_err(build)?;
    source.link(&filter).map_err(build)?;
    let pad = filter.static_pad("src").ok_or_else(|| build("capsfilter has no source pad"))?;
    let weak = draft.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        if let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view())
            && !pad.is_linked()
        {
            weak.attempt(|draft| attach(draft, pad, &media_type(event.caps())));
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

fn attach(draft: &Draft, pad: &gst::Pad, media: &str) -> Result<(), SourceError> {
    let codec = Codec::of_media(media);
    tracing::debug!("camera sends {}", codec.map_or(media, |codec| codec.name));
    draft.insert(pad, codec.map(Codec::packet_chain).transpose()?.unwrap_or_default())
}

/// The formats that are accepted from a USB camera, best first: compressed frames come at the full rate where raw ones
/// exceed the cable's bandwidth.
fn usb_caps(format: UsbFormat, capture: Capture) -> gst::Caps {
    let media: &[&str] = match format {
        UsbFormat::Auto => &["image/jpeg", "video/x-raw", "video/x-h264"],
        UsbFormat::Mjpeg => &["image/jpeg"],
        UsbFormat::Raw => &["video/x-raw"],
        UsbFormat::H264 => &["video/x-h264"],
    };
    media.iter().map(|media| structure(media, capture)).collect()
}

/// A media type with the configured size and rate.
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

/// `nvarguscamerasrc ! capsfilter ! nvvidconv ! tail`: the sensor writes NVMM memory, which the VIC copies.
pub(super) fn csi(sensor: u32, capture: Capture, draft: &Draft) -> Result<(), SourceError> {
    let (source, filter) = (make("nvarguscamerasrc")?, make("capsfilter")?);
    source.set_property_from_str("sensor-id", &sensor.to_string());
    let mut structure = structure("video/x-raw", capture);
    structure.set("format", "NV12");
    let mut caps = gst::Caps::new_empty();
    caps.make_mut().append_structure_full(structure, Some(gst::CapsFeatures::new(["memory:NVMM"])));
    filter.set_property("caps", caps);
    let chain: Vec<gst::Element> = [source].into_iter().chain(downloaded(filter, "nvvidconv")?).collect();
    draft.pipeline.add_many(&chain).map_err(build)?;
    gst::Element::link_many(&chain).map_err(build)?;
    let end = chain.last().and_then(|last| last.static_pad("src")).ok_or_else(|| build("no source pad"))?;
    end.link(&draft.head).map(drop).map_err(build)
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
        let draft = Draft::new(false, |_| gstreamer_app::AppSinkCallbacks::builder().build()).unwrap();
        let error =
            usb("/dev/video-none".as_ref(), UsbFormat::Auto, Capture::default(), &draft).err().unwrap().to_string();
        assert!(error.contains("/dev/video-none") && error.contains("plugged in"), "{error}");
    }
}
