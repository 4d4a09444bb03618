//! The engine's timeouts and thresholds.

use std::time::Duration;

use crate::infer::backend::table::on_gpu;
use crate::types::BackendKind;

/// The service uses the defaults; tests use shorter ones.
#[derive(Debug, Clone)]
pub(in crate::infer) struct Limits {
    /// An inference hangs when it takes this many times as long as the warm-up did …
    pub(in crate::infer) factor: u32,
    /// … but never before this time on a GPU …
    pub(in crate::infer) least_gpu: Duration,
    /// … and on a CPU, which frames share with everything else on the box.
    pub(in crate::infer) least_cpu: Duration,
    /// Longest time to load a model and to run it once.
    pub(in crate::infer) load: Duration,
    /// Longest wait for the threads when the engine is dropped.
    pub(in crate::infer) stop: Duration,
    /// Failures in a row after which a process that has only a GPU backend gives the GPU up.
    pub(in crate::infer) failures: u32,
    /// Hung threads at most; after that no worker is replaced.
    pub(in crate::infer) hung: u32,
    /// First wait before a lost backend is tried again; doubles up to `retry_max`.
    pub(in crate::infer) retry_first: Duration,
    pub(in crate::infer) retry_max: Duration,
    /// Frames, or time, after which a start of a backend counts as successful.
    pub(in crate::infer) served: (u64, Duration),
    /// Time of service after which earlier losses no longer lengthen the wait for a retry.
    pub(in crate::infer) settled: Duration,
    /// Longest time between two checks of the workers.
    pub(in crate::infer) check: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            factor: 20,
            least_gpu: Duration::from_secs(2),
            least_cpu: Duration::from_secs(10),
            load: Duration::from_secs(180),
            stop: Duration::from_secs(10),
            failures: 20,
            hung: 3,
            retry_first: Duration::from_secs(60),
            retry_max: Duration::from_secs(3600),
            served: (100, Duration::from_secs(60)),
            settled: Duration::from_secs(600),
            check: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// Timeout of an inference on `kind` whose warm-up took `warm_up`.
    pub(in crate::infer) fn inference(&self, kind: BackendKind, warm_up: Duration) -> Duration {
        let least = if on_gpu(kind) { self.least_gpu } else { self.least_cpu };
        (warm_up * self.factor).max(least)
    }

    /// A gap between two checks that is longer than this means that the whole process was suspended.
    pub(in crate::infer) fn suspended(&self) -> Duration {
        self.check * 4 + Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendKind::{Cuda, Tract};

    #[test]
    fn the_timeout_of_an_inference_is_measured_and_has_a_floor() {
        let limits = Limits::default();
        assert_eq!(limits.inference(Cuda, Duration::from_millis(5)), Duration::from_secs(2));
        assert_eq!(limits.inference(Cuda, Duration::from_millis(500)), Duration::from_secs(10));
        assert_eq!(limits.inference(Tract, Duration::from_millis(100)), Duration::from_secs(10));
        assert_eq!(limits.inference(Tract, Duration::from_secs(1)), Duration::from_secs(20));
    }
}
