//! Where frames come from: one GStreamer pipeline per camera, kept alive.
//!
//! Belongs here: pipelines, reconnects, states. Does not belong here: what is done with a frame.
