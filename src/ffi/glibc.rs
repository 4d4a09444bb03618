//! The heap of the C library, which keeps freed memory.

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
unsafe extern "C" {
    fn malloc_trim(pad: usize) -> std::ffi::c_int;
}

/// Gives freed memory back to the system. Loading and optimising a model frees tens of megabytes that glibc would keep for
/// ever. Takes a few milliseconds. Does nothing if the C library is not glibc.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim(3) has no precondition, may be called from any thread at any time (MT-Safe), and changes no
    // memory that is in use.
    unsafe {
        malloc_trim(0);
    }
}
