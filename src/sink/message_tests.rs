#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::telemetry::{CameraStats, DivisionStats, EngineReport, EngineStats, ModelStats};
use crate::types::EngineState;
use crate::types::{FrameMeta, PixelBox};

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn result(detections: Vec<Detection>) -> FrameResult {
    FrameResult {
        meta: FrameMeta {
            camera: "gate".into(),
            seq: 184_223,
            pts_ns: 12_281_533_333_333,
            captured_at: at(1_795_486_231_482),
            captured: Instant::now(),
            size: Size::new(1920, 1080),
        },
        model: Arc::new(ModelId {
            name: "yolox-s".into(),
            sha256: "3f2cab12".repeat(8),
            labels: vec!["person".into(), "car".into()],
        }),
        backend: BackendKind::Tract,
        batch: 1,
        detections,
        latency: Latency {
            wait: Duration::from_micros(11_204),
            preprocess: Duration::from_micros(1_250),
            infer: Duration::from_micros(6_800),
            postprocess: Duration::from_micros(310),
            total: Duration::from_micros(24_949),
        },
    }
}

fn detection(class_id: u32, score: f32, edges: [f32; 4]) -> Detection {
    Detection { class_id, score, bbox: PixelBox::new(edges[0], edges[1], edges[2], edges[3]) }
}

/// Compares with the committed file, or writes it when `OCELLI_BLESS` is set.
fn check_file(path: &str, text: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("OCELLI_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "{} is not current: look at the difference, then run the test with OCELLI_BLESS=1\n{text}",
        path.display()
    );
}

fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    out.push(b'\n');
    String::from_utf8(out).unwrap()
}

#[test]
fn frame_is_as_the_golden_file_says() {
    let result = result(vec![
        detection(0, 0.874_04, [415.1, 496.04, 543.9, 853.96]),
        detection(1, 0.51, [-3.0, 0.0, 1920.0, 1100.0]),
        detection(9, 0.25, [0.0, 0.0, 1.0, 1.0]),
    ]);
    check_file("tests/golden/frame.json", &line(|out| FrameMessage::new(&result, Run::new(7)).write(out)));
}

#[test]
fn status_is_as_the_golden_file_says() {
    let status = CameraStatus {
        camera: "gate".into(),
        state: CameraState::AuthFailed,
        since: at(1_795_486_231_000),
        reason: Some("the camera refused the user name \"admin\"".into()),
        retries: 3,
    };
    check_file("tests/golden/status.json", &line(|out| StatusMessage::new(&status).write(out)));
}

#[test]
fn stats_are_as_the_golden_file_says() {
    let camera = CameraStats {
        state: CameraState::Online,
        since: "2026-11-24T02:10:31.482Z".into(),
        reason: None,
        retries: 0,
        reconnects: 1,
        frames: 750,
        results: 300,
        frames_dropped: 450,
        detections: 912,
        fps: 25.0,
        detect_fps: 9.98,
        infer_ms_p50: Some(68.42),
        batch_p50: Some(1.0),
        latency_ms_p50: Some(101.5),
        latency_ms_p99: None,
    };
    let model = ModelStats {
        name: "yolox-s".into(),
        sha256: "3f2cab12".repeat(8),
        backend: "tract".into(),
        backend_version: "tract 0.23.9".into(),
        fallbacks: vec!["cpu: no ONNX Runtime library found".into()],
        nodes: [("CPUExecutionProvider".to_owned(), 182)].into(),
    };
    let division = DivisionStats { sessions: 2, threads: 1, frames_per_s: Some(52.1) };
    let engine = EngineStats {
        state: EngineState::Serving,
        reason: None,
        build: None,
        division_not_taken: Some(DivisionStats { sessions: 1, threads: 2, frames_per_s: Some(38.4) }),
        division: Some(division),
    };
    let stats = StatsSnapshot {
        v: 1,
        node: "node1".into(),
        version: "0.1.0".into(),
        uptime_s: 30,
        models: [("default".to_owned(), EngineReport { model: Some(model.clone()), engine: engine.clone() })].into(),
        model: Some(model),
        engine,
        cameras: [("gate".to_owned(), camera)].into(),
        mqtt_connected: Some(true),
        reload: None,
        counters: [("mqtt_dropped".to_owned(), 7)].into(),
    };
    check_file("tests/golden/stats.json", &line(|out| write_json(&stats, out)));
}

#[test]
fn schema_file_is_current() {
    check_file("configs/messages.schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn schema_requires_each_field_of_the_frame() {
    let schema = schema();
    let frame = &schema["$defs"]["FrameMessage"];
    let message = serde_json::to_value(FrameMessage::new(&result(vec![]), Run::new(1))).unwrap();
    let fields: Vec<_> = message.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), frame["properties"].as_object().unwrap().len());
    for field in fields {
        assert!(frame["required"].as_array().unwrap().iter().any(|name| name == field), "{field} is not required");
    }
}

#[test]
fn a_message_read_back_is_the_message() {
    let result = result(vec![detection(0, 0.5, [0.0, 0.0, 96.0, 54.0])]);
    let message = FrameMessage::new(&result, Run::new(1));
    let text = line(|out| message.write(out));
    assert_eq!(serde_json::from_str::<FrameMessage<'static>>(&text).unwrap(), message);
}

#[test]
fn fractions_stay_inside_the_frame_and_near_the_truth() {
    for score in [f32::NAN, f32::INFINITY, -0.1, 0.0, 0.123_456, 0.999_96, 1.0, 1.1] {
        let shown = fraction(score, 1e4);
        assert!((0.0..=1.0).contains(&shown));
        if (0.0..=1.0).contains(&score) {
            assert!((shown - f64::from(score)).abs() < 1e-4);
        }
    }
    let empty = ObjectMessage::new(&detection(0, 0.5, [1.0; 4]), &result(vec![]).model, Size::new(0, 0)).bbox;
    assert!(empty.iter().all(|edge| edge.is_finite()));
}

#[test]
fn ids_grow_with_the_frames_and_differ_between_cameras_and_runs() {
    let run = Run::new(1);
    // As fast as a file can be read: several frames in one millisecond.
    let ids: Vec<_> = (0..1000).map(|seq| run.frame_id("gate", seq, at(1000 + seq / 300))).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert_ne!(run.frame_id("gate", 5, at(1)), run.frame_id("dock", 5, at(1)));
    assert_ne!(run.frame_id("gate", 5, at(1)), Run::new(2).frame_id("gate", 5, at(1)));
    assert_eq!(Run::of_process(), Run::of_process());
}

#[test]
fn times_before_1970_do_not_fail() {
    let mut result = result(vec![]);
    result.meta.captured_at = UNIX_EPOCH - Duration::from_secs(1);
    assert!(line(|out| FrameMessage::new(&result, Run::new(1)).write(out)).contains("1970-01-01T00:00:00.000Z"));
}
