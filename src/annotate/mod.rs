//! Which result belongs on which frame, and how it is painted into the planes.
//!
//! Belongs here: drawing and matching, with time as an argument. Does not belong here: threads, encoders.
