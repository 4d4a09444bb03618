//! What happens to an engine, and what it does about it: input and output of the machine.

use std::time::Duration;

use tracing::Level;

use crate::infer::InferError;
use crate::infer::backend::load::LoadReason;
use crate::infer::engine::crashes::Mark;
use crate::types::BackendKind;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// The engine starts. By place: how many starts in a row crashed before the backend served.
    Start {
        crashes: Vec<u32>,
    },
    /// An attempt has ended, or was given up because it took too long.
    Loaded {
        attempt: u64,
        outcome: Outcome,
    },
    /// The workers of a session that was to serve could not be started.
    NoWorker(InferError),
    BuildEnded(Result<(), InferError>),
    /// A worker did not come back within `limit`; `hung` threads of this engine are abandoned now.
    WorkerHung {
        hung: usize,
        limit: Duration,
    },
    /// A frame failed in spite of its retry, the last of `failures` in a row.
    Failed {
        failures: u32,
        error: InferError,
    },
    /// At regular intervals: frames served by the present backend, failures since the last one that worked, hung threads.
    Tick {
        served: u64,
        failures: u32,
        hung: usize,
    },
    /// The engine stops, or is asked to.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// A session that has run the model once.
    Session,
    /// A GPU engine must be built first.
    Build,
    Error(InferError),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    /// Load a backend on a thread of its own.
    Load {
        attempt: u64,
        kind: BackendKind,
        reason: LoadReason,
    },
    /// The result of the attempt under way is not wanted any more.
    Abandon,
    /// The session of the attempt that has just ended replaces what served before.
    Serve {
        kind: BackendKind,
        halt_on_failure: bool,
    },
    /// Start the build that the attempt which has just ended asked for.
    Build {
        kind: BackendKind,
    },
    /// Start one more worker, which makes its own session.
    StartWorker,
    /// The workers take no further job.
    Halt,
    /// The workers take jobs again, and a failure does not halt them.
    Resume,
    /// Waiting and new jobs come back with this error.
    Refuse(InferError),
    /// Jobs are accepted again.
    Admit,
    /// Update the crash counter.
    Remember(Mark),
    Log(Level, String),
}
