//! Whether detection makes progress: a pure check on counters. A thread that merely runs proves nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::telemetry::Progress;
use crate::types::CameraName;

/// A camera's newest counters, and when each of them was last seen to be as it should.
struct Seen {
    progress: Progress,
    turned: Instant,
    finished: Instant,
}

/// What was seen of each camera's thread.
#[derive(Default)]
pub(super) struct StallCheck {
    seen: BTreeMap<CameraName, Seen>,
}

impl StallCheck {
    /// Reads the counters of all cameras' threads at the time `now`; returns a sentence about a stuck one.
    ///
    /// A thread is healthy when its loop turns and it has finished a frame since the last check, has none in work, or its
    /// engine cannot finish frames yet. One that is not healthy for longer than `limit` is stuck. A camera that is away is not
    /// stuck, and neither is a slow one.
    pub(super) fn stuck(
        &mut self,
        now: Instant,
        limit: Duration,
        cameras: impl IntoIterator<Item = (CameraName, Progress)>,
    ) -> Option<String> {
        let mut old = std::mem::take(&mut self.seen);
        let mut stuck = None;
        for (camera, progress) in cameras {
            let mut seen = Seen { progress, turned: now, finished: now };
            if let Some(old) = old.remove(&camera) {
                if progress.turns == old.progress.turns {
                    seen.turned = old.turned;
                }
                let in_work = progress.taken > progress.finished && !progress.engine_waits;
                if in_work && progress.finished == old.progress.finished {
                    seen.finished = old.finished;
                }
            }
            let (idle, waiting) = (now.duration_since(seen.turned), now.duration_since(seen.finished));
            if stuck.is_none() && idle > limit {
                stuck = Some(format!("the thread of camera {camera} has not moved for {} s", idle.as_secs()));
            } else if stuck.is_none() && waiting > limit {
                stuck = Some(format!(
                    "inference does not finish: a frame of camera {camera} has been waiting for {} s",
                    waiting.as_secs()
                ));
            }
            self.seen.insert(camera, seen);
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn camera(name: &str, turns: u64, taken: u64, finished: u64, engine_waits: bool) -> (CameraName, Progress) {
        (name.into(), Progress { turns, taken, finished, engine_waits })
    }

    fn gate(turns: u64, taken: u64, finished: u64) -> [(CameraName, Progress); 1] {
        [camera("gate", turns, taken, finished, false)]
    }

    #[test]
    fn frames_that_are_finished_are_progress() {
        let (mut check, start) = (StallCheck::default(), Instant::now());
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(check.stuck(now, LIMIT, gate(second, second + 1, second)), None);
        }
    }

    #[test]
    fn a_camera_without_frames_is_not_stuck() {
        let (mut check, start) = (StallCheck::default(), Instant::now());
        for second in 0..60 {
            assert_eq!(check.stuck(start + Duration::from_secs(second), LIMIT, gate(second, 7, 7)), None);
        }
    }

    #[test]
    fn a_frame_that_is_never_finished_is_reported_after_the_limit() {
        let (mut check, start) = (StallCheck::default(), Instant::now());
        let mut reports = Vec::new();
        for second in 0..=15 {
            // The loop turns all the while: the thread looks alive.
            if let Some(why) = check.stuck(start + Duration::from_secs(second), LIMIT, gate(second, 8, 7)) {
                reports.push((second, why));
            }
        }
        assert_eq!(reports.first().map(|(second, _)| *second), Some(11));
        assert!(reports[0].1.contains("gate") && reports[0].1.contains("11 s"), "{reports:?}");
        assert_eq!(check.stuck(start + Duration::from_secs(16), LIMIT, gate(16, 9, 8)), None, "it recovers");
    }

    #[test]
    fn a_thread_that_does_not_turn_is_stuck_and_a_removed_one_is_forgotten() {
        let (mut check, start) = (StallCheck::default(), Instant::now());
        check.stuck(start, LIMIT, gate(5, 7, 7));
        let later = start + Duration::from_secs(11);
        assert!(check.stuck(later, LIMIT, gate(5, 7, 7)).is_some_and(|why| why.contains("has not moved")));
        assert_eq!(check.stuck(later, LIMIT, []), None);
        assert_eq!(check.stuck(later, LIMIT, gate(5, 7, 7)), None, "a new camera of that name starts afresh");
    }

    #[test]
    fn an_engine_that_is_built_excuses_only_its_own_cameras() {
        let (mut check, start) = (StallCheck::default(), Instant::now());
        let mut reports = Vec::new();
        for second in 0..=30 {
            let cameras = [camera("waits", second, 8, 7, true), camera("stuck", second, 8, 7, false)];
            reports.extend(check.stuck(start + Duration::from_secs(second), LIMIT, cameras));
        }
        assert_eq!(reports.len(), 20);
        assert!(reports.iter().all(|why| why.contains("camera stuck")), "{reports:?}");
        // Once the engine serves, the limit starts again for the camera that waited.
        let serves = |second| [camera("waits", second, 8, 7, false)];
        assert_eq!(check.stuck(start + Duration::from_secs(31), LIMIT, serves(31)), None);
        assert!(check.stuck(start + Duration::from_secs(42), LIMIT, serves(42)).is_some());
    }
}
