//! What follows from a failure: pure decisions, time is an argument.

use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::types::BackendKind;

/// Bounds of the engine's patience. The service uses the defaults; tests use shorter ones.
#[derive(Debug, Clone)]
pub(in crate::infer) struct Limits {
    /// An inference may take this many times as long as the warm-up did …
    pub(in crate::infer) factor: u32,
    /// … but is never said to hang before this, on a GPU …
    pub(in crate::infer) least_gpu: Duration,
    /// … and on the CPU, which frames share with everything else on the box.
    pub(in crate::infer) least_cpu: Duration,
    /// Longest time to load a model and to run it once.
    pub(in crate::infer) load: Duration,
    /// Longest wait for a thread when the engine stops.
    pub(in crate::infer) stop: Duration,
    /// Failures in a row after which a GPU is given up by a process that has no other backend.
    pub(in crate::infer) failures: u32,
    /// Hanging threads at most.
    pub(in crate::infer) hung: u32,
    /// First wait before a lost backend is tried again; doubles up to `climb_max`.
    pub(in crate::infer) climb_first: Duration,
    /// Longest such wait.
    pub(in crate::infer) climb_max: Duration,
    /// Frames, or time, after which a backend counts as one that serves.
    pub(in crate::infer) served: (u64, Duration),
    /// Time of service after which an earlier loss is forgotten.
    pub(in crate::infer) settled: Duration,
    /// Longest time between two looks at the workers.
    pub(in crate::infer) look: Duration,
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
            climb_first: Duration::from_secs(60),
            climb_max: Duration::from_secs(3600),
            served: (100, Duration::from_secs(60)),
            settled: Duration::from_secs(600),
            look: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// How long an inference of `kind` may take whose warm-up took `warm_up`.
    pub(in crate::infer) fn deadline(&self, kind: BackendKind, warm_up: Duration) -> Duration {
        let least = if on_gpu(kind) { self.least_gpu } else { self.least_cpu };
        (warm_up * self.factor).max(least)
    }
}

/// Whether a backend runs on a GPU, whose faults outlive a session.
pub(in crate::infer) fn on_gpu(kind: BackendKind) -> bool {
    matches!(kind, BackendKind::Tensorrt | BackendKind::Cuda)
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Verdict {
    /// Go on with the next frame, with a new session where the old one hangs.
    GoOn,
    /// Go on if there is a thread left to do it.
    Wait,
    /// Take the next backend of the ladder.
    Down,
    /// Only a new process can help.
    Fatal,
}

struct Rung {
    kind: BackendKind,
    /// Losses since it last served for long.
    losses: u32,
    /// When it is tried again; only for rungs above the present one that were lost at run time.
    due: Option<Instant>,
}

pub(in crate::infer) struct Policy {
    limits: Limits,
    rungs: Vec<Rung>,
    current: usize,
    /// Hangs since the last frame that worked.
    hangs: u32,
    /// Every rung below was tried in vain.
    exhausted: bool,
}

impl Policy {
    pub(in crate::infer) fn new(kinds: &[BackendKind], limits: Limits) -> Self {
        let rungs = kinds.iter().map(|&kind| Rung { kind, losses: 0, due: None }).collect();
        Self { limits, rungs, current: 0, hangs: 0, exhausted: false }
    }

    pub(in crate::infer) fn kind(&self, rung: usize) -> Option<BackendKind> {
        self.rungs.get(rung).map(|rung| rung.kind)
    }

    pub(in crate::infer) fn current(&self) -> usize {
        self.current
    }

    pub(in crate::infer) fn can_go_down(&self) -> bool {
        self.current + 1 < self.rungs.len() && !self.exhausted
    }

    fn gpu(&self) -> bool {
        self.kind(self.current).is_some_and(on_gpu)
    }

    /// The rung `rung` serves from now on.
    pub(in crate::infer) fn activated(&mut self, rung: usize) {
        self.current = rung;
        self.hangs = 0;
        self.exhausted = false;
        for rung in self.rungs.iter_mut().skip(rung) {
            rung.due = None;
        }
    }

    /// No rung below works either.
    pub(in crate::infer) fn exhausted(&mut self) {
        self.exhausted = true;
    }

    /// A frame worked.
    pub(in crate::infer) fn works(&mut self) {
        self.hangs = 0;
    }

    /// The present rung has served for so long that earlier losses do not count any more.
    pub(in crate::infer) fn settled(&mut self) {
        if let Some(rung) = self.rungs.get_mut(self.current) {
            rung.losses = 0;
        }
    }

    /// `failures` frames in a row failed, retries included, the last one with `error`.
    pub(in crate::infer) fn failed(&self, failures: u32, error: &InferError) -> Verdict {
        if error.device_lost() {
            return Verdict::Fatal;
        }
        if self.can_go_down() {
            return Verdict::Down;
        }
        if self.gpu() && failures >= self.limits.failures { Verdict::Fatal } else { Verdict::GoOn }
    }

    /// An inference hangs; `hung` threads of this engine do by now.
    pub(in crate::infer) fn hung(&mut self, hung: usize) -> Verdict {
        self.hangs += 1;
        let full = hung >= self.limits.hung as usize;
        // The first one is tried again on the same backend: that is the retry which a failure has had already.
        if self.hangs > 1 && self.can_go_down() {
            Verdict::Down
        } else if !full {
            Verdict::GoOn
        } else if self.can_go_down() {
            Verdict::Down
        } else if self.gpu() {
            Verdict::Fatal
        } else {
            Verdict::Wait
        }
    }

    /// A rung was lost at run time, or could not be taken again: it is tried again later, and later each time.
    pub(in crate::infer) fn lost(&mut self, rung: usize, now: Instant) -> Duration {
        let Limits { climb_first, climb_max, .. } = self.limits;
        let Some(rung) = self.rungs.get_mut(rung) else { return climb_max };
        let wait = climb_first.saturating_mul(1_u32.checked_shl(rung.losses).unwrap_or(u32::MAX)).min(climb_max);
        rung.losses = (rung.losses + 1).min(31);
        rung.due = Some(now + wait);
        wait
    }

    /// The rung that was tried in vain is not tried again in this process.
    pub(in crate::infer) fn give_up(&mut self, rung: usize) {
        if let Some(rung) = self.rungs.get_mut(rung) {
            rung.due = None;
        }
    }

    /// The best rung above the present one that is to be tried again now.
    pub(in crate::infer) fn climb_due(&self, now: Instant) -> Option<usize> {
        self.rungs.iter().take(self.current).position(|rung| rung.due.is_some_and(|due| due <= now))
    }

    /// When the next rung is to be tried again.
    pub(in crate::infer) fn next_climb(&self) -> Option<Instant> {
        self.rungs.iter().take(self.current).filter_map(|rung| rung.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendKind::{Cpu, Cuda, Tensorrt, Tract};

    fn failure(reason: &str) -> InferError {
        InferError::Run { backend: Cuda, reason: reason.into() }
    }

    fn policy(kinds: &[BackendKind]) -> Policy {
        Policy::new(kinds, Limits::default())
    }

    #[test]
    fn a_deadline_is_measured_and_has_a_floor() {
        let limits = Limits::default();
        assert_eq!(limits.deadline(Cuda, Duration::from_millis(5)), Duration::from_secs(2));
        assert_eq!(limits.deadline(Cuda, Duration::from_millis(500)), Duration::from_secs(10));
        assert_eq!(limits.deadline(Tract, Duration::from_millis(100)), Duration::from_secs(10));
        assert_eq!(limits.deadline(Tract, Duration::from_secs(1)), Duration::from_secs(20));
    }

    #[test]
    fn a_failure_goes_down_where_it_may_and_a_lost_gpu_ends_the_process() {
        let auto = policy(&[Cuda, Cpu, Tract]);
        assert_eq!(auto.failed(1, &failure("out of memory")), Verdict::Down);
        assert_eq!(auto.failed(1, &failure("CUDA failure 700: an illegal memory access")), Verdict::Fatal);
        let named = policy(&[Cuda]);
        assert_eq!(named.failed(19, &failure("out of memory")), Verdict::GoOn);
        assert_eq!(named.failed(20, &failure("out of memory")), Verdict::Fatal);
        assert_eq!(policy(&[Cpu]).failed(1000, &failure("no")), Verdict::GoOn, "a CPU stays");
    }

    #[test]
    fn a_hang_is_tried_again_once_then_goes_down() {
        let mut auto = policy(&[Cuda, Cpu]);
        assert_eq!(auto.hung(1), Verdict::GoOn);
        assert_eq!(auto.hung(2), Verdict::Down);
        auto.activated(1);
        assert_eq!([auto.hung(1), auto.hung(2), auto.hung(3)], [Verdict::GoOn, Verdict::GoOn, Verdict::Wait]);
        auto.works();
        assert_eq!(auto.hung(1), Verdict::GoOn);
        let mut named = policy(&[Tensorrt]);
        assert_eq!([named.hung(1), named.hung(2), named.hung(3)], [Verdict::GoOn, Verdict::GoOn, Verdict::Fatal]);
    }

    #[test]
    fn the_way_up_is_tried_later_each_time() {
        let mut auto = policy(&[Tensorrt, Cuda, Cpu]);
        let start = Instant::now();
        auto.activated(2);
        assert_eq!(auto.climb_due(start + Duration::from_secs(86_400)), None, "what never ran here is left alone");
        let waits: Vec<u64> = (0..8).map(|_| auto.lost(1, start).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(auto.climb_due(start + Duration::from_secs(3599)), None);
        assert_eq!(auto.climb_due(start + Duration::from_secs(3600)), Some(1));
        auto.activated(1);
        assert_eq!(auto.next_climb(), None);
        assert_eq!(auto.lost(1, start).as_secs(), 3600, "a rung that is lost again soon has not become better");
        auto.activated(1);
        auto.settled();
        assert_eq!(auto.lost(1, start).as_secs(), 60);
    }
}
