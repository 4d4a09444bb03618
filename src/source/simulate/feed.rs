//! The thread `simulate-feed`: hands frames to the encoder on time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::SimulatorConfig;
use super::slot::{Shared, TICK};
use crate::frame::Frame;
use crate::queue::{self, RecvError};
use crate::source::counter::write_counter;

/// Behind by more than this (the process was stopped for a while), the clock is restarted: a camera does not catch up.
const LATE: Duration = Duration::from_millis(500);
/// Time for the viewers to receive the end of the stream.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) struct Feed {
    pub(super) shared: Arc<Shared>,
    pub(super) received: queue::Receiver<Frame>,
    /// The first frame's time in the clip.
    pub(super) zero_ns: u64,
    pub(super) config: SimulatorConfig,
}

impl Feed {
    /// Starts after the first frame, which is in the slot already.
    pub(super) fn run(self) {
        while self.config.once && self.shared.lock().viewer.is_none() {
            if self.shared.cancel.sleep(TICK) {
                return;
            }
        }
        let mut number = 0u64;
        let mut pace = Pace::default();
        pace.due(0, Instant::now());
        while !self.shared.cancel.is_cancelled() {
            let mut frame = match self.received.recv_timeout(LATE) {
                Ok(frame) => frame,
                Err(RecvError::Timeout | RecvError::Woken) => continue,
                Err(RecvError::Closed) => break,
            };
            number += 1;
            frame.meta.pts_ns = frame.meta.pts_ns.saturating_sub(self.zero_ns);
            if let Some(fps) = self.config.fps {
                frame.meta.pts_ns = (number as f64 * 1e9 / fps) as u64;
            }
            number_frame(&mut frame, number, self.config.counter);
            let now = Instant::now();
            if self.shared.cancel.sleep(pace.due(frame.meta.pts_ns, now).saturating_duration_since(now)) {
                return;
            }
            let mut slot = self.shared.lock();
            if let Some(viewer) = &mut slot.viewer {
                viewer.push(frame.clone());
            }
            slot.newest = Some(frame);
        }
        // A file played once is over: the viewers get the end of the stream and a moment to receive it.
        if let Some(viewer) = &self.shared.lock().viewer {
            let _ = viewer.input.end_of_stream();
        }
        let deadline = Instant::now() + DRAIN;
        while self.shared.lock().viewer.is_some() && Instant::now() < deadline {
            if self.shared.cancel.sleep(TICK) {
                return;
            }
        }
    }
}

/// Paints the frame's number if `counter` is set.
pub(super) fn number_frame(frame: &mut Frame, number: u64, counter: bool) {
    if !counter {
        return;
    }
    let painted = frame.paint(|view| {
        write_counter(view, number as u16);
    });
    if let Err(error) = painted {
        tracing::debug!("no counter in frame {number}: {error}");
    }
}

/// When each frame is due by the wall clock.
#[derive(Default)]
struct Pace(Option<(Instant, u64)>);

impl Pace {
    fn due(&mut self, pts_ns: u64, now: Instant) -> Instant {
        let (start, zero) = *self.0.get_or_insert((now, pts_ns));
        let due = start + Duration::from_nanos(pts_ns.saturating_sub(zero));
        if now.saturating_duration_since(due) > LATE {
            self.0 = Some((now, pts_ns));
            return now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_by_their_times_and_a_stopped_camera_does_not_catch_up() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let ms = Duration::from_millis;
        assert_eq!(pace.due(5_000_000, start), start);
        assert_eq!(pace.due(45_000_000, start + ms(1)), start + ms(40));
        assert_eq!(pace.due(85_000_000, start + ms(100)), start + ms(80), "a little late is caught up");
        let later = start + Duration::from_secs(9);
        assert_eq!(pace.due(125_000_000, later), later);
        assert_eq!(pace.due(165_000_000, later), later + ms(40));
    }
}
