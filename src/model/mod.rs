//! What a model file says about itself, and how its output becomes boxes.
//!
//! Belongs here: the manifest, the ONNX metadata, layouts, decoding, NMS. Does not belong here: running a model.
