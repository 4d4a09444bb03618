//! Running a model: backends behind one trait, the ladder between them, and the engine that serves all cameras.
//!
//! Belongs here: sessions and their threads. Does not belong here: cameras, boxes' meaning.
