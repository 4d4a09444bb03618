//! Shared libraries of runtimes: where they are, and whether a child process can open them.
//!
//! Belongs here: libraries as files, and the child process that opens them first. Does not belong here: what a library
//! offers once it is open (room `backend`).

pub(in crate::infer) mod child;
pub(in crate::infer) mod elf;
pub(in crate::infer) mod gpu;
pub(in crate::infer) mod library;
pub(in crate::infer) mod places;
pub(in crate::infer) mod probe;
pub(in crate::infer) mod probe_cache;
