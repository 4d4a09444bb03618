//! One time line of presentation times across reconnects, loops and cameras that lose their clock. Pure; nanoseconds.

/// A larger step forward within one run is a broken clock, not a pause: one hour.
const LONGEST_STEP: u64 = 3_600_000_000_000;
/// Step assumed before two frames have shown the real one: 40 ms.
const DEFAULT_STEP: u64 = 40_000_000;

/// Maps each run's own times to one time line that always grows.
#[derive(Debug, Default)]
pub(super) struct PtsLine {
    last: Option<u64>,
    step: Option<u64>,
    /// Unknown until the run's first frame.
    run: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// Time of the last frame in the run's own time.
    own: u64,
    /// The same on the time line.
    line: u64,
}

impl PtsLine {
    /// A new run begins; its times are unrelated to those before.
    pub(super) fn new_run(&mut self) {
        self.run = None;
    }

    /// The next frame's time on the time line. `own` is its time in this run, `since_last` the real time since the last
    /// frame; it places the first frame of a live camera's run (`None` for files: they continue without a gap).
    pub(super) fn next(&mut self, own: Option<u64>, since_last: Option<u64>) -> u64 {
        let step = self.step.unwrap_or(DEFAULT_STEP);
        let expected = self.last.map(|last| last.saturating_add(step));
        let line = match (self.run, own, self.last) {
            // A stream without times gets evenly spaced ones.
            (_, None, _) => expected.unwrap_or(0),
            // The very first frame keeps its own time.
            (None, Some(own), None) => own,
            (None, Some(_), Some(last)) => last.saturating_add(since_last.unwrap_or(step).max(1)),
            (Some(run), Some(own), last) => {
                let moved = own.checked_sub(run.own).map(|delta| run.line.saturating_add(delta));
                match (moved, last) {
                    (Some(line), Some(last)) if line > last && line - last <= LONGEST_STEP => line,
                    _ => expected.unwrap_or(0),
                }
            }
        };
        if let (Some(run), Some(own), Some(last)) = (self.run, own, self.last)
            && own > run.own
        {
            self.step = Some((line - last.min(line)).clamp(1, LONGEST_STEP));
        }
        if let Some(own) = own {
            self.run = Some(Run { own, line });
        }
        self.last = Some(line);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(line: &mut PtsLine, own: &[u64]) -> Vec<u64> {
        own.iter().map(|t| line.next(Some(*t), None)).collect()
    }

    #[test]
    fn one_run_keeps_its_times() {
        assert_eq!(feed(&mut PtsLine::default(), &[7, 10, 14]), [7, 10, 14]);
    }

    #[test]
    fn a_loop_goes_on_with_the_step_of_the_clip() {
        let mut line = PtsLine::default();
        feed(&mut line, &[0, 100, 200]);
        line.new_run();
        assert_eq!(feed(&mut line, &[0, 100, 200]), [300, 400, 500]);
    }

    #[test]
    fn a_reconnect_leaves_the_gap_that_really_was() {
        let mut line = PtsLine::default();
        feed(&mut line, &[0, 100]);
        line.new_run();
        assert_eq!(line.next(Some(999_999), Some(5000)), 5100);
        assert_eq!(line.next(Some(1_000_099), Some(90)), 5200);
    }

    #[test]
    fn times_that_jump_back_or_stand_still_or_are_absent_still_grow() {
        let mut line = PtsLine::default();
        let times = [Some(1000), Some(1100), Some(50), Some(150), Some(150), None, None, Some(160), Some(u64::MAX - 1)];
        let got: Vec<u64> = times.iter().map(|t| line.next(*t, None)).collect();
        assert!(got.windows(2).all(|w| w[1] > w[0]), "{got:?}");
        assert_eq!(got[2] - got[1], 100, "a jump back costs one step");
        assert!(got[8] - got[7] < LONGEST_STEP, "a jump forward is not taken over");
    }

    #[test]
    fn the_first_frame_may_have_no_time() {
        let mut line = PtsLine::default();
        assert_eq!(line.next(None, None), 0);
        assert_eq!(line.next(None, None), DEFAULT_STEP);
    }
}
