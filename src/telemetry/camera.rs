//! One camera's counters. Its threads hold a [`CameraMetrics`] and never look it up again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::histogram::Histogram;

use super::stats::{CameraHealth, CameraStats};
use crate::types::{CameraState, CameraStatus, FrameResult, Latency};

/// Newest results that the percentiles are computed from.
const WINDOW: usize = 256;
/// Whole seconds that a rate is averaged over.
const RATE_SECONDS: u64 = 10;
/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Stage = fn(&Latency) -> Duration;

/// The stages of a frame that are timed, by the name that the metrics give them.
const STAGES: [(&str, Stage); 4] = [
    ("wait", |latency| latency.wait),
    ("preprocess", |latency| latency.preprocess),
    ("infer", |latency| latency.infer),
    ("postprocess", |latency| latency.postprocess),
];

/// How far the thread that detects for a camera has come. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rounds of its loop; one takes a quarter of a second at most.
    pub turns: u64,
    /// Frames given to the detector.
    pub taken: u64,
    /// Frames that came back from it, with a result or an error.
    pub finished: u64,
    /// The engine of its model is being loaded or built, so frames wait for a known reason that ends.
    pub engine_waits: bool,
}

/// Counters and state of one camera. The capture callback may call [`frame`](Self::frame): it takes no lock.
pub struct CameraMetrics {
    created: Instant,
    frames: Counter,
    results: Counter,
    dropped: AtomicU64,
    detections: AtomicU64,
    latency: Histogram,
    stages: [Histogram; STAGES.len()],
    window: Mutex<Window>,
    status: Mutex<Status>,
    turns: AtomicU64,
    taken: AtomicU64,
    finished: AtomicU64,
    /// The model of the thread that detects for this camera; `None` while there is none.
    model: Mutex<Option<String>>,
}

struct Status {
    state: CameraState,
    since: SystemTime,
    reason: Option<String>,
    retries: u32,
    reconnects: u64,
}

impl CameraMetrics {
    pub(super) fn new() -> Self {
        let (state, since) = (CameraState::Connecting, SystemTime::now());
        Self {
            created: Instant::now(),
            frames: Counter::default(),
            results: Counter::default(),
            dropped: AtomicU64::default(),
            detections: AtomicU64::default(),
            latency: Histogram::new(BUCKETS),
            stages: STAGES.map(|_| Histogram::new(BUCKETS)),
            window: Mutex::default(),
            status: Mutex::new(Status { state, since, reason: None, retries: 0, reconnects: 0 }),
            turns: AtomicU64::default(),
            taken: AtomicU64::default(),
            finished: AtomicU64::default(),
            model: Mutex::default(),
        }
    }

    /// A frame came from the decoder.
    pub fn frame(&self) {
        self.frames.add(self.created.elapsed());
    }

    /// `count` frames were not detected because a newer one was there.
    pub fn frames_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub fn result(&self, result: &FrameResult) {
        self.results.add(self.created.elapsed());
        self.detections.fetch_add(result.detections.len() as u64, Ordering::Relaxed);
        let latency = &result.latency;
        self.latency.observe(latency.total.as_secs_f64());
        for (histogram, (_, stage)) in self.stages.iter().zip(STAGES) {
            histogram.observe(stage(latency).as_secs_f64());
        }
        let ms = |time: Duration| time.as_secs_f32() * 1e3;
        lock(&self.window).push([ms(latency.total), ms(latency.infer), result.batch as f32]);
    }

    /// The camera's state changed.
    pub fn status(&self, new: &CameraStatus) {
        let mut status = lock(&self.status);
        let lost = !matches!(new.state, CameraState::Online | CameraState::Ended | CameraState::Disabled);
        status.reconnects += u64::from(status.state == CameraState::Online && lost);
        status.state = new.state;
        status.since = new.since;
        status.reason.clone_from(&new.reason);
        status.retries = new.retries;
    }

    /// A thread detects with the model that the configuration calls `model` from now on; `None`: it has ended.
    pub fn detects_with(&self, model: Option<&str>) {
        *lock(&self.model) = model.map(str::to_owned);
    }

    /// How far that thread has come; [`Progress::engine_waits`] is not read.
    pub fn progress(&self, progress: Progress) {
        self.turns.store(progress.turns, Ordering::Relaxed);
        self.taken.store(progress.taken, Ordering::Relaxed);
        self.finished.store(progress.finished, Ordering::Relaxed);
    }

    /// The thread's progress, where there is one; `waits` says whether a model's engine is being loaded or built.
    pub(super) fn read_progress(&self, waits: impl Fn(&str) -> bool) -> Option<Progress> {
        let engine_waits = waits(lock(&self.model).as_deref()?);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (turns, taken, finished) = (read(&self.turns), read(&self.taken), read(&self.finished));
        Some(Progress { turns, taken, finished, engine_waits })
    }

    pub(super) fn health(&self) -> CameraHealth {
        let status = lock(&self.status);
        CameraHealth {
            state: status.state,
            since: humantime::format_rfc3339_millis(status.since).to_string(),
            reason: status.reason.clone(),
            retries: status.retries,
        }
    }

    pub(super) fn stats(&self) -> CameraStats {
        let CameraHealth { state, since, reason, retries } = self.health();
        let reconnects = lock(&self.status).reconnects;
        let [total, infer, batch] = lock(&self.window).columns();
        let now = self.created.elapsed();
        CameraStats {
            state,
            since,
            reason,
            retries,
            reconnects,
            frames: self.frames.total(),
            results: self.results.total(),
            frames_dropped: self.dropped.load(Ordering::Relaxed),
            detections: self.detections.load(Ordering::Relaxed),
            fps: round2(self.frames.per_second(now)),
            detect_fps: round2(self.results.per_second(now)),
            infer_ms_p50: percentile(&infer, 0.50),
            batch_p50: percentile(&batch, 0.50),
            latency_ms_p50: percentile(&total, 0.50),
            latency_ms_p99: percentile(&total, 0.99),
        }
    }

    pub(super) fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// The time of each stage, with the stage's name.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        STAGES.iter().map(|(name, _)| *name).zip(&self.stages)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter that remembers the last seconds, so that every reader gets the same rate however often it reads.
#[derive(Default)]
struct Counter {
    total: AtomicU64,
    /// By second modulo the length: the second in the upper half, its count in the lower.
    seconds: [AtomicU64; 16],
}

impl Counter {
    /// Adds one at the time `now` since the camera was made.
    fn add(&self, now: Duration) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let second = now.as_secs();
        let next = |old: u64| Some(if old >> 32 == second { old + 1 } else { second << 32 | 1 });
        let _ = self.seconds[second as usize % 16].fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The average of the last whole seconds; 0 in the first second.
    fn per_second(&self, now: Duration) -> f64 {
        let seconds = now.as_secs().min(RATE_SECONDS);
        let range = now.as_secs() - seconds..now.as_secs();
        let counts = self.seconds.iter().map(|slot| slot.load(Ordering::Relaxed));
        let sum: u64 = counts.filter(|slot| range.contains(&(slot >> 32))).map(|slot| slot & 0xffff_ffff).sum();
        sum as f64 / seconds.max(1) as f64
    }
}

/// Total time, inference time (both in ms) and batch of the newest results.
#[derive(Default)]
struct Window {
    samples: Vec<[f32; 3]>,
    next: usize,
}

impl Window {
    fn push(&mut self, sample: [f32; 3]) {
        match self.samples.get_mut(self.next) {
            Some(oldest) => *oldest = sample,
            None => self.samples.push(sample),
        }
        self.next = (self.next + 1) % WINDOW;
    }

    fn columns(&self) -> [Vec<f32>; 3] {
        [0, 1, 2].map(|column| self.samples.iter().map(|sample| sample[column]).collect())
    }
}

fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn percentile(samples: &[f32], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(at).map(|v| round2(f64::from(*v)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::types::{BackendKind, FrameMeta, ModelId, Size};

    fn result(total_ms: u64) -> FrameResult {
        FrameResult {
            meta: FrameMeta {
                camera: "gate".into(),
                seq: 0,
                pts_ns: 0,
                captured_at: SystemTime::now(),
                captured: Instant::now(),
                size: Size::new(4, 4),
            },
            model: Arc::new(ModelId { name: "m".into(), sha256: String::new(), labels: vec![] }),
            backend: BackendKind::Tract,
            batch: 1,
            detections: vec![],
            latency: Latency { total: Duration::from_millis(total_ms), ..Latency::default() },
        }
    }

    #[test]
    fn percentiles_come_from_the_newest_samples() {
        let camera = CameraMetrics::new();
        for _ in 0..WINDOW {
            camera.result(&result(500));
        }
        for ms in 1..=WINDOW as u64 {
            camera.result(&result(ms));
        }
        let stats = camera.stats();
        assert_eq!((stats.latency_ms_p50, stats.latency_ms_p99), (Some(129.0), Some(253.0)));
    }

    #[test]
    fn a_rate_is_the_average_of_the_last_whole_seconds_for_every_reader() {
        let counter = Counter::default();
        let at = |ms: u64| Duration::from_millis(ms);
        for ms in (0..30_000).step_by(40) {
            counter.add(at(ms));
        }
        for _reader in 0..3 {
            assert_eq!(counter.per_second(at(30_010)), 25.0);
        }
        assert_eq!(counter.total(), 750);
        assert_eq!(counter.per_second(at(35_500)), 12.5, "nothing came for half of the time");
        assert_eq!(counter.per_second(at(60_000)), 0.0);
        let young = Counter::default();
        (0..50).for_each(|n| young.add(at(n * 40)));
        assert_eq!((young.per_second(at(900)), young.per_second(at(2_000))), (0.0, 25.0));
    }

    #[test]
    fn a_reconnect_is_a_loss_after_having_been_online() {
        let camera = CameraMetrics::new();
        let enter = |state| {
            camera.status(&CameraStatus {
                camera: "gate".into(),
                state,
                since: SystemTime::now(),
                reason: None,
                retries: 0,
            });
            camera.stats().reconnects
        };
        for state in [CameraState::Connecting, CameraState::Offline, CameraState::Online, CameraState::Stalled] {
            enter(state);
        }
        assert_eq!(enter(CameraState::Online), 1);
        assert_eq!(enter(CameraState::Ended), 1, "the end of a file is no loss");
    }
}
