//! Whether detection goes on: a pure verdict on counters. A thread that is merely alive is no proof of anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::telemetry::Beat;
use crate::types::CameraName;

/// A camera's newest counters and when each of them was last seen to be as it should.
struct Seen {
    beat: Beat,
    turned: Instant,
    finished: Instant,
}

/// What was seen of each camera's thread.
#[derive(Default)]
pub(super) struct Pulse {
    seen: BTreeMap<CameraName, Seen>,
}

impl Pulse {
    /// Looks at the counters of all cameras' threads at the time `now`; gives what is stuck, for people.
    ///
    /// A thread is well when its loop turns, and when it has finished a frame since the last look or has none in work. One
    /// that is not well for longer than `limit` is stuck: a camera that is away is not, and neither is a slow one.
    pub(super) fn check(
        &mut self,
        now: Instant,
        limit: Duration,
        beats: impl IntoIterator<Item = (CameraName, Beat)>,
    ) -> Option<String> {
        let mut old = std::mem::take(&mut self.seen);
        let mut stuck = None;
        for (camera, beat) in beats {
            let seen = match old.remove(&camera) {
                None => Seen { beat, turned: now, finished: now },
                Some(seen) => Seen {
                    turned: if beat.turns != seen.beat.turns { now } else { seen.turned },
                    finished: if beat.finished != seen.beat.finished || beat.taken == beat.finished {
                        now
                    } else {
                        seen.finished
                    },
                    beat,
                },
            };
            let (idle, waiting) = (now.duration_since(seen.turned), now.duration_since(seen.finished));
            if stuck.is_none() && idle > limit {
                stuck = Some(format!("the thread of camera {camera} has not moved for {} s", idle.as_secs()));
            } else if stuck.is_none() && waiting > limit {
                stuck = Some(format!(
                    "inference gives no answer: a frame of camera {camera} has been waiting for {} s",
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

    fn beat(turns: u64, taken: u64, finished: u64) -> [(CameraName, Beat); 1] {
        [("gate".into(), Beat { turns, taken, finished })]
    }

    #[test]
    fn frames_that_come_through_are_a_pulse() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(pulse.check(now, LIMIT, beat(second, second + 1, second)), None);
        }
    }

    #[test]
    fn a_camera_without_frames_is_waiting_not_stuck() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        for second in 0..60 {
            assert_eq!(pulse.check(start + Duration::from_secs(second), LIMIT, beat(second, 7, 7)), None);
        }
    }

    #[test]
    fn a_frame_that_is_never_finished_is_told_after_the_limit() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        let mut told = Vec::new();
        for second in 0..=15 {
            // The loop turns all the while: it looks alive.
            if let Some(why) = pulse.check(start + Duration::from_secs(second), LIMIT, beat(second, 8, 7)) {
                told.push((second, why));
            }
        }
        assert_eq!(told.first().map(|(second, _)| *second), Some(11));
        assert!(told[0].1.contains("gate") && told[0].1.contains("11 s"), "{told:?}");
        // It comes back.
        assert_eq!(pulse.check(start + Duration::from_secs(16), LIMIT, beat(16, 9, 8)), None);
    }

    #[test]
    fn a_thread_that_does_not_turn_is_stuck_and_one_that_was_removed_is_forgotten() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        pulse.check(start, LIMIT, beat(5, 7, 7));
        let later = start + Duration::from_secs(11);
        assert!(pulse.check(later, LIMIT, beat(5, 7, 7)).is_some_and(|why| why.contains("has not moved")));
        assert_eq!(pulse.check(later, LIMIT, []), None);
        assert_eq!(pulse.check(later, LIMIT, beat(5, 7, 7)), None, "a new camera of that name starts anew");
    }
}
