//! Tests of the real executable and the real parts.
