//! Backends: one file or folder for each runtime that can run a model, behind one table of descriptors (`table.rs`).
//!
//! Belongs here: sessions, loading with fallback, building GPU engines. Does not belong here: finding and probing
//! libraries (room `runtime`), scheduling frames (room `engine`).

pub(in crate::infer) mod build_child;
pub(in crate::infer) mod build_here;
mod convert;
pub(in crate::infer) mod descriptor;
pub(in crate::infer) mod factory;
mod layout;
pub(in crate::infer) mod load;
pub(in crate::infer) mod onnxruntime;
pub(in crate::infer) mod openvino;
pub(in crate::infer) mod table;
mod tiny;
pub(in crate::infer) mod tract;

#[cfg(test)]
#[path = "tests/fake.rs"]
pub(in crate::infer) mod fake;
