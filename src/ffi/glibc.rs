//! The heap of the C library, which keeps what was freed.

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
mod glibc {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> c_int;
    }

    pub(super) fn trim() {
        // SAFETY: malloc_trim(3) has no precondition, may be called from any thread at any time (MT-Safe), and changes no
        // memory that is in use.
        unsafe { malloc_trim(0) };
    }
}

/// Gives freed memory back to the system. Loading and optimising a model frees tens of megabytes that nothing later
/// needs and that glibc would keep for ever. Takes a few milliseconds: for the end of a start-up, not for every frame.
/// Does nothing where the C library is not glibc.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    glibc::trim();
}
