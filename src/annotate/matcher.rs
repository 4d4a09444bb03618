//! A delay line in which frames wait for their own results.
//!
//! It has three modes, chosen by the latest results:
//!
//! - the detector keeps up (a result for every frame): a frame leaves as soon as its own result arrives;
//! - it skips frames, but answers within `max_delay`: every frame leaves a fixed time after its arrival, a little more
//!   than the detector needs. Frames without a result of their own get the nearest one, and video runs evenly instead of
//!   in jumps from result to result;
//! - it needs longer than `max_delay`, or does not answer: frames leave at once with the newest result, or without boxes
//!   when that is older than [`FORGET`].
//!
//! Frames leave in order, each exactly once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::types::FrameResult;

/// Older boxes are not shown, and frames do not wait for a detector that has been silent for longer.
pub const FORGET: Duration = Duration::from_secs(2);
/// Results from which the detector's lag and skipping are computed.
const RECENT: usize = 8;
/// Frames wait for the recent lag, a quarter of it, and this.
const SLACK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Released<T> {
    pub seq: u64,
    pub pts_ns: u64,
    pub frame: T,
    /// `None`: no boxes.
    pub result: Option<Arc<FrameResult>>,
}

impl<T> Released<T> {
    /// True when the result is of this frame.
    pub fn own(&self) -> bool {
        self.result.as_ref().is_some_and(|r| r.meta.seq == self.seq)
    }
}

struct Held<T> {
    seq: u64,
    pts_ns: u64,
    at: Instant,
    frame: T,
}

/// The delay line. Time is an argument.
pub struct Matcher<T> {
    max_delay: Duration,
    capacity: usize,
    held: VecDeque<Held<T>>,
    /// By `seq`, oldest first.
    results: VecDeque<Arc<FrameResult>>,
    lags: VecDeque<Duration>,
    newest_seq: Option<u64>,
    /// Arrival of the oldest frame that is newer than all results.
    unanswered: Option<Instant>,
}

impl<T> Matcher<T> {
    /// Holds a frame for at most `max_delay`, and at most `capacity` (≥ 1) frames.
    pub fn new(max_delay: Duration, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            max_delay,
            capacity,
            held: VecDeque::with_capacity(capacity + 1),
            results: VecDeque::with_capacity(capacity + RECENT + 1),
            lags: VecDeque::with_capacity(RECENT + 1),
            newest_seq: None,
            unanswered: None,
        }
    }

    /// Adds a frame. When its number does not grow, the source was replaced, and all is cleared first.
    pub fn push(&mut self, seq: u64, pts_ns: u64, frame: T, now: Instant) {
        if self.newest_seq.is_some_and(|newest| seq <= newest) {
            self.clear();
        }
        self.newest_seq = Some(seq);
        if self.results.back().is_none_or(|r| r.meta.seq < seq) {
            self.unanswered.get_or_insert(now);
        }
        self.held.push_back(Held { seq, pts_ns, at: now, frame });
    }

    /// Adds a result; they may come in any order.
    pub fn result(&mut self, result: Arc<FrameResult>, now: Instant) {
        let seq = result.meta.seq;
        let at = self.results.partition_point(|r| r.meta.seq < seq);
        if self.results.get(at).is_some_and(|r| r.meta.seq == seq) {
            return;
        }
        self.lags.push_back(now.saturating_duration_since(result.meta.captured));
        if self.lags.len() > RECENT {
            self.lags.pop_front();
        }
        self.results.insert(at, result);
        if self.results.len() > self.capacity + RECENT {
            self.results.pop_front();
        }
        let newer_waits = self.newest_seq.is_some_and(|newest| newest > seq);
        self.unanswered = newer_waits.then_some(now);
    }

    /// The next frame that is due; call until `None`.
    pub fn pop(&mut self, now: Instant) -> Option<Released<T>> {
        if self.next_deadline(now)? > now {
            return None;
        }
        let Held { seq, pts_ns, frame, .. } = self.held.pop_front()?;
        Some(Released { seq, pts_ns, frame, result: self.nearest(seq, pts_ns) })
    }

    /// When [`Self::pop`] will return a frame if nothing else arrives; `None` when no frame waits.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let first = self.held.front()?;
        let answered = self.results.back().is_some_and(|r| r.meta.seq >= first.seq);
        if self.held.len() > self.capacity || (answered && self.keeps_up()) {
            return Some(now);
        }
        Some(first.at + self.timeout(now))
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Sets how many frames may wait.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
    }

    pub fn clear(&mut self) {
        self.held.clear();
        self.results.clear();
        self.lags.clear();
        self.newest_seq = None;
        self.unanswered = None;
    }

    /// Drops the frames, but keeps the results.
    pub fn drop_frames(&mut self) {
        self.held.clear();
        self.unanswered = None;
    }

    /// How long a frame may wait now.
    fn timeout(&self, now: Instant) -> Duration {
        if self.unanswered.is_some_and(|since| now.saturating_duration_since(since) > FORGET) {
            return Duration::ZERO;
        }
        match self.lag() {
            Some(lag) if lag > self.max_delay => Duration::ZERO,
            Some(lag) if !self.keeps_up() => (lag + lag / 4 + SLACK).min(self.max_delay),
            // Keeping up, or no result yet: the frame leaves as soon as its result arrives.
            _ => self.max_delay,
        }
    }

    /// The second longest of the recent lags, so that a single outlier has no effect.
    fn lag(&self) -> Option<Duration> {
        let longest = self.lags.iter().max()?;
        if self.lags.len() < RECENT {
            return Some(*longest);
        }
        let place = self.lags.iter().position(|lag| lag == longest)?;
        self.lags.iter().enumerate().filter(|(n, _)| *n != place).map(|(_, lag)| *lag).max()
    }

    /// True when no frame was skipped between the latest results.
    fn keeps_up(&self) -> bool {
        let recent = || self.results.iter().rev().take(RECENT).map(|r| r.meta.seq);
        recent().zip(recent().skip(1)).all(|(newer, older)| newer == older + 1)
    }

    /// The frame's own result, else the nearest in time within [`FORGET`].
    fn nearest(&self, seq: u64, pts_ns: u64) -> Option<Arc<FrameResult>> {
        let split = self.results.partition_point(|r| r.meta.seq <= seq);
        let earlier = split.checked_sub(1).and_then(|n| self.results.get(n));
        let later = self.results.get(split);
        let distance = |r: &&Arc<FrameResult>| r.meta.pts_ns.abs_diff(pts_ns);
        let best = match earlier {
            Some(own) if own.meta.seq == seq => Some(own),
            _ => earlier.into_iter().chain(later).min_by_key(distance),
        };
        best.filter(|r| distance(r) <= FORGET.as_nanos() as u64).cloned()
    }
}

#[cfg(test)]
#[path = "matcher_tests.rs"]
mod tests;
