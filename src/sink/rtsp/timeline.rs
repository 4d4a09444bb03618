//! Converts a camera's time stamps to those of the outgoing stream.

/// Largest difference to the clock before the offset is reset: after a reconnect, a loop of a file, clock drift.
const TOLERANCE_NS: u64 = 500_000_000;
/// Smallest step from frame to frame.
const STEP_NS: u64 = 1_000_000;

/// Time stamps of one stream: always increasing, with the camera's intervals, close to the clock.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// Stream time minus camera time.
    offset: Option<i128>,
    last: Option<u64>,
}

impl Timeline {
    /// The time stamp of the next frame, in nanoseconds of the stream. `source` is the camera's time stamp, `None` for a
    /// still picture; `running` is the stream's clock, `None` while it does not run.
    pub(super) fn stamp(&mut self, source: Option<u64>, running: Option<u64>) -> u64 {
        let wanted = match (source, running) {
            // The stream is being prepared: these frames are not shown.
            (_, None) => 0,
            (None, Some(running)) => running,
            (Some(source), Some(running)) => {
                let at = self.offset.map(|offset| i128::from(source) + offset);
                match at.and_then(|at| u64::try_from(at).ok()) {
                    Some(at) if at.abs_diff(running) <= TOLERANCE_NS => at,
                    _ => {
                        self.offset = Some(i128::from(running) - i128::from(source));
                        running
                    }
                }
            }
        };
        let stamp = self.last.map_or(wanted, |last| wanted.max(last + STEP_NS));
        self.last = Some(stamp);
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn distances_are_the_cameras_not_the_arrivals() {
        let mut line = Timeline::default();
        assert_eq!(line.stamp(Some(5_000 * MS), Some(100 * MS)), 100 * MS);
        assert_eq!(line.stamp(Some(5_040 * MS), Some(163 * MS)), 140 * MS);
        assert_eq!(line.stamp(Some(5_080 * MS), Some(164 * MS)), 180 * MS);
    }

    #[test]
    fn stamps_grow_whatever_comes() {
        let mut line = Timeline::default();
        let mut last = None;
        for (source, running) in [
            (None, None),
            (Some(9), None),
            (Some(u64::MAX), Some(0)),
            (Some(0), Some(1)),
            (Some(3_000 * MS), Some(10 * MS)),
            (None, Some(11 * MS)),
            (Some(3_001 * MS), Some(11 * MS)),
            (Some(1_000 * MS), Some(50 * MS)),
        ] {
            let stamp = line.stamp(source, running);
            assert!(last.is_none_or(|last| stamp > last));
            last = Some(stamp);
        }
    }

    #[test]
    fn a_jump_of_the_camera_does_not_leave_the_clock() {
        let mut line = Timeline::default();
        line.stamp(Some(0), Some(1_000 * MS));
        assert_eq!(line.stamp(Some(60_000 * MS), Some(1_040 * MS)), 1_040 * MS);
        assert_eq!(line.stamp(Some(60_040 * MS), Some(1_090 * MS)), 1_080 * MS);
    }
}
