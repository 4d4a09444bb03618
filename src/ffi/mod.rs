//! Foreign interfaces that need `unsafe`: one file each, named after the library.
//!
//! Belongs here: the smallest safe function around a foreign call. Does not belong here: what is done with it.

pub mod glibc;
pub mod onnxruntime;
