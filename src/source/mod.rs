//! Where frames come from: one GStreamer pipeline per camera, kept alive.
//!
//! Belongs here: pipelines, reconnects, camera states, and the simulated camera for tests and the demo. Does not belong
//! here: what is done with a frame.
//!
//! Frames travel on GStreamer's own threads: the capture callback numbers a frame, stamps it and hands it over, nothing
//! else. The thread `src-<camera>` supervises: it builds the pipeline, waits on its bus, notices silence, tears the
//! pipeline down and tries again.

mod backoff;
mod counter;
mod decoder;
mod error;
mod file;
mod first;
mod handle;
mod handover;
mod input;
mod local;
mod outputs;
mod pipeline;
mod plan;
mod probe;
mod pts;
mod rtsp;
mod runner;
mod simulate;
mod status;

pub use counter::write_counter;
pub use error::{SourceError, package};
pub use handle::Source;
pub use outputs::{FrameTap, Outcome, Outputs};
pub use plan::{CodecPlan, DecoderPlan, ElementPlan, SourcePlan, plan};
pub use probe::{CameraProbe, probe};
pub use simulate::{Simulator, SimulatorConfig};
