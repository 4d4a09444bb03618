#![allow(clippy::unwrap_used)]

use std::time::SystemTime;

use super::*;
use crate::types::{BackendKind, FrameMeta, Latency, ModelId, Size};

const MS: Duration = Duration::from_millis(1);

fn result(seq: u64, pts_ns: u64, captured: Instant) -> Arc<FrameResult> {
    let model = Arc::new(ModelId { name: "m".into(), sha256: String::new(), labels: vec![] });
    let meta = FrameMeta {
        camera: "cam".into(),
        seq,
        pts_ns,
        captured_at: SystemTime::UNIX_EPOCH,
        captured,
        size: Size::new(64, 48),
    };
    let latency = Latency::default();
    Arc::new(FrameResult { meta, model, backend: BackendKind::Tract, batch: 1, detections: vec![], latency })
}

/// What came out: when, which frame, the result's number, and how long the frame was held.
struct Out {
    at: Duration,
    seq: u64,
    result: Option<u64>,
    delay: Duration,
}

/// A camera of `fps` frames per second and a detector that always takes the newest frame and needs `infer(n)` for its
/// n-th one (`None`: for ever), in steps of a millisecond.
fn simulate(fps: u64, frames: u64, max_delay: Duration, infer: impl Fn(u64) -> Option<Duration>) -> Vec<Out> {
    let start = Instant::now();
    let mut matcher = Matcher::new(max_delay, 64);
    let mut out = Vec::new();
    let mut latest: Option<(u64, Duration)> = None;
    let mut running: Option<(u64, Duration, Option<Duration>)> = None;
    let mut taken = 0;
    let mut pushed = 0;
    let end = Duration::from_millis(frames * 1000 / fps) + max_delay * 4;
    let mut t = Duration::ZERO;
    while t <= end {
        let now = start + t;
        if let Some((seq, captured, Some(done))) = running
            && t >= done
        {
            matcher.result(result(seq, captured.as_nanos() as u64, start + captured), now);
            running = None;
        }
        if pushed < frames && t >= Duration::from_millis(pushed * 1000 / fps) {
            matcher.push(pushed, t.as_nanos() as u64, t, now);
            latest = Some((pushed, t));
            pushed += 1;
        }
        if running.is_none()
            && let Some((seq, captured)) = latest.take()
        {
            running = Some((seq, captured, infer(taken).map(|d| t + d)));
            taken += 1;
        }
        while let Some(r) = matcher.pop(now) {
            out.push(Out { at: t, seq: r.seq, result: r.result.map(|r| r.meta.seq), delay: t - r.frame });
        }
        let due = matcher.next_deadline(now);
        assert!(due.is_none_or(|due| due > now), "a frame is due, but was not released");
        t += MS;
    }
    assert_eq!(out.iter().map(|o| o.seq).collect::<Vec<_>>(), (0..frames).collect::<Vec<_>>(), "each once, in order");
    assert!(out.iter().all(|o| o.delay <= max_delay), "held longer than allowed");
    out
}

#[test]
fn with_a_fast_detector_every_frame_gets_its_own_boxes() {
    for (fps, infer) in [(10, 80), (30, 30), (5, 190), (1, 300)] {
        let out = simulate(fps, 60, 500 * MS, |_| Some(infer * MS));
        assert!(out.iter().all(|o| o.result == Some(o.seq)), "{fps} fps, {infer} ms");
        assert!(out.iter().all(|o| o.delay <= (infer + 1) * MS), "waited for nothing at {fps} fps");
    }
}

#[test]
fn jitter_of_a_fast_detector_loses_no_boxes() {
    let out = simulate(10, 200, 500 * MS, |n| Some((20 + n * 37 % 70) as u32 * MS));
    assert!(out.iter().all(|o| o.result == Some(o.seq)));
}

#[test]
fn a_slow_detector_keeps_the_frame_rate_even() {
    let out = simulate(30, 300, 500 * MS, |_| Some(200 * MS));
    // Detected frames carry their own boxes, the others those of a detected frame nearby.
    let settled = &out[30..];
    let own = settled.iter().filter(|o| o.result == Some(o.seq)).count();
    assert!((settled.len() / 8..=settled.len() / 5).contains(&own), "{own} of {}", settled.len());
    assert!(settled.iter().all(|o| o.result.is_some_and(|r| r.abs_diff(o.seq) <= 7)));
    // 33 ms from frame to frame: no jumps from result to result.
    for pair in settled.windows(2) {
        let step = pair[1].at - pair[0].at;
        assert!(step <= 45 * MS && step >= 20 * MS, "frame {} came {step:?} after its predecessor", pair[1].seq);
    }
}

#[test]
fn a_detector_slower_than_max_delay_delays_nothing() {
    let out = simulate(30, 300, 300 * MS, |_| Some(900 * MS));
    for o in &out[60..] {
        assert_eq!(o.delay, Duration::ZERO, "frame {}", o.seq);
        assert!(o.result.is_some_and(|r| r < o.seq), "frame {} shows the newest boxes known", o.seq);
    }
}

#[test]
fn boxes_of_a_silent_detector_vanish_and_video_continues() {
    let out = simulate(25, 250, 400 * MS, |n| (n < 50).then_some(30 * MS));
    assert!(out[..50].iter().all(|o| o.result == Some(o.seq)));
    let shown = |o: &Out| o.result.is_some();
    // 2 s at 25 fps.
    assert!(out[50..99].iter().all(shown));
    assert!(!out[101..].iter().any(shown));
    assert!(out[101..].iter().all(|o| o.delay == Duration::ZERO));
}

#[test]
fn a_silent_detector_delays_only_the_first_frames() {
    let out = simulate(25, 250, 400 * MS, |_| None);
    assert!(out.iter().all(|o| o.result.is_none()));
    assert!(out[60..].iter().all(|o| o.delay == Duration::ZERO));
}

#[test]
fn results_are_matched_again_after_a_pause_of_the_detector() {
    // The 20th inference hangs for 5 s.
    let out = simulate(10, 200, 400 * MS, |n| Some(if n == 20 { 5000 * MS } else { 50 * MS }));
    assert!(out[100..].iter().all(|o| o.result == Some(o.seq)));
}

#[test]
fn a_full_delay_line_releases_its_oldest_frame() {
    let now = Instant::now();
    let mut matcher = Matcher::new(Duration::from_secs(5), 3);
    for seq in 0..3 {
        matcher.push(seq, 0, (), now);
        assert!(matcher.pop(now).is_none());
    }
    matcher.push(3, 0, (), now);
    assert_eq!(matcher.pop(now).map(|r| r.seq), Some(0));
    assert!(matcher.pop(now).is_none());
    assert_eq!(matcher.len(), 3);
}

#[test]
fn results_are_bounded_sorted_and_counted_once() {
    let now = Instant::now();
    let mut matcher = Matcher::new(100 * MS, 4);
    matcher.push(500, 500_000, (), now);
    for seq in (0..1000).rev() {
        matcher.result(result(seq, seq * 1000, now), now);
        matcher.result(result(seq, seq * 1000, now), now);
    }
    assert!(matcher.results.len() <= 4 + RECENT);
    assert!(matcher.results.iter().zip(matcher.results.iter().skip(1)).all(|(a, b)| a.meta.seq < b.meta.seq));
    assert!(matcher.pop(now).is_some());
}

#[test]
fn a_frame_without_result_gets_the_nearest_one() {
    let now = Instant::now();
    let second = 1_000_000_000;
    let mut matcher = Matcher::new(Duration::ZERO, 8);
    matcher.result(result(10, 10 * second, now), now);
    matcher.result(result(13, 11 * second, now), now);
    for (seq, pts_ns) in [(11, 10 * second + 1), (12, 11 * second - 1), (14, 13 * second), (15, 13 * second + 1)] {
        matcher.push(seq, pts_ns, (), now);
    }
    let mut shown = || matcher.pop(now).map(|r| r.result.map(|r| r.meta.seq)).unwrap();
    assert_eq!([shown(), shown(), shown(), shown()], [Some(10), Some(13), Some(13), None]);
}

#[test]
fn a_source_that_restarts_its_numbers_clears_the_matcher() {
    let now = Instant::now();
    let mut matcher = Matcher::new(Duration::from_secs(1), 8);
    matcher.push(7, 7, 'a', now);
    matcher.result(result(7, 7, now), now);
    assert_eq!(matcher.pop(now).map(|r| r.frame), Some('a'));
    matcher.push(0, 0, 'b', now);
    assert!(matcher.pop(now).is_none(), "the old result is not the new frame's");
    matcher.result(result(0, 0, now), now);
    assert!(matcher.pop(now).is_some_and(|r| r.own()));
}
