//! Runtime libraries: finding them, probing them in a child process, opening them.
//!
//! Belongs here: ONNX Runtime's and OpenVINO's shared libraries as files. Does not belong here: models and sessions
//! (room `backend`).

pub(in crate::infer) mod child;
pub(in crate::infer) mod elf;
pub(in crate::infer) mod gpu;
pub(in crate::infer) mod library;
pub(in crate::infer) mod needs;
pub(in crate::infer) mod openvino_library;
pub(in crate::infer) mod ort_library;
pub(in crate::infer) mod places;
pub(in crate::infer) mod probe;
pub(in crate::infer) mod trial;
pub(in crate::infer) mod verdicts;
