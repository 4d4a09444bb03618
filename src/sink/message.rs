//! The messages as they travel: JSON on MQTT, in JSON Lines, and from `ocelli detect --json -`. One struct, one format.
//!
//! The format is frozen by `tests/golden/*.json` and described by `configs/messages.schema.json`, which is generated
//! from these structs. Fields may be added; a field never changes its meaning without a new `v`.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::telemetry::StatsSnapshot;
use crate::types::{BackendKind, CameraState, CameraStatus, Detection, FrameResult, Latency, ModelId, Size};

/// Version of the format of [`FrameMessage`] and [`StatusMessage`].
pub const VERSION: u32 = 1;

/// Tells this run of the program from others, so that ids of two runs never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(u32);

impl Run {
    /// A run of this number; only its low 20 bits count.
    pub const fn new(number: u32) -> Self {
        Self(number & 0xF_FFFF)
    }

    /// This process: drawn at random at the first call, the same ever after.
    pub fn of_process() -> Self {
        static RUN: OnceLock<Run> = OnceLock::new();
        // RandomState is seeded by the operating system: all the randomness that 20 bits need, without a crate.
        *RUN.get_or_init(|| Self::new(std::collections::hash_map::RandomState::new().build_hasher().finish() as u32))
    }

    /// The id of one frame's message, the same in every sink.
    ///
    /// A ULID: 48 bits of `captured_at` in milliseconds, then 20 bits of the run, 20 of the camera's name and 40 of
    /// `seq`. So it is unique, and it grows from frame to frame of a camera unless the wall clock is set back.
    pub fn frame_id(self, camera: &str, seq: u64, captured_at: SystemTime) -> Ulid {
        let ms = captured_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let random = (u128::from(self.0) << 60)
            | (u128::from(fnv1a(camera.as_bytes()) & 0xF_FFFF) << 40)
            | u128::from(seq & 0xFF_FFFF_FFFF);
        Ulid::from_parts(ms, random)
    }
}

/// FNV-1a: the same on every machine and in every run, unlike the standard hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One frame's detections: `…/<camera>/frame`, one line of JSON Lines, one line of `ocelli detect --json -`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameMessage<'a> {
    /// Version of this format: 1.
    pub v: u32,
    /// ULID, unique: by it a consumer knows a repetition.
    #[serde(serialize_with = "ulid_out", deserialize_with = "ulid_in")]
    #[schemars(with = "String", regex(pattern = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"))]
    pub id: Ulid,
    /// The camera's name.
    pub camera: Cow<'a, str>,
    /// Number of the frame, from 0; gaps are frames without detection.
    pub seq: u64,
    /// When the decoded frame arrived: RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "time_out", deserialize_with = "time_in")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub ts: SystemTime,
    /// Presentation time of the frame in its stream, nanoseconds.
    pub pts_ns: u64,
    /// Width and height of the frame in pixels.
    pub frame: FrameSize,
    /// What detected.
    pub model: ModelRef<'a>,
    /// What ran the model, as measured.
    pub backend: BackendKind,
    /// Where the time went.
    pub latency_ms: LatencyMs,
    /// Objects, best score first.
    pub objects: Vec<ObjectMessage<'a>>,
}

/// Width and height of the frame in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrameSize {
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

/// What detected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef<'a> {
    /// The model's name.
    pub name: Cow<'a, str>,
    /// First 8 hex digits of the SHA-256 of the model's file.
    pub sha256: Cow<'a, str>,
}

/// Stage times in milliseconds, to the hundredth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyMs {
    /// From arrival of the decoded frame to the start of preprocessing.
    pub wait: f64,
    /// Planes to tensor.
    pub preprocess: f64,
    /// In the session, without the queue before it.
    pub infer: f64,
    /// Decode of the output, non-maximum suppression.
    pub postprocess: f64,
    /// From arrival of the decoded frame to the finished result.
    pub total: f64,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectMessage<'a> {
    /// Name of the class.
    pub label: Cow<'a, str>,
    /// Index of the class in the model.
    pub class_id: u32,
    /// Confidence 0 … 1, to four digits.
    #[schemars(range(min = 0, max = 1))]
    pub score: f64,
    /// x1, y1, x2, y2 as fractions of the frame, to five digits: the same on the main stream and on a sub-stream.
    #[serde(rename = "box")]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub bbox: [f64; 4],
}

impl<'a> FrameMessage<'a> {
    /// The message of `result`, borrowing its names. `run` makes the id unique: [`Run::of_process`] outside tests.
    pub fn new(result: &'a FrameResult, run: Run) -> Self {
        let meta = &result.meta;
        Self {
            v: VERSION,
            id: run.frame_id(&meta.camera, meta.seq, meta.captured_at),
            camera: Cow::Borrowed(&meta.camera),
            seq: meta.seq,
            ts: meta.captured_at,
            pts_ns: meta.pts_ns,
            frame: FrameSize { w: meta.size.w, h: meta.size.h },
            model: ModelRef { name: Cow::Borrowed(&result.model.name), sha256: short_sha(&result.model.sha256).into() },
            backend: result.backend,
            latency_ms: LatencyMs::new(&result.latency),
            objects: result.detections.iter().map(|d| ObjectMessage::new(d, &result.model, meta.size)).collect(),
        }
    }

    /// Appends the message to `out` as one line of JSON without the line's end.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_json(self, out);
    }
}

impl LatencyMs {
    fn new(latency: &Latency) -> Self {
        let ms = |duration: Duration| round(duration.as_secs_f64() * 1e3, 1e2);
        Self {
            wait: ms(latency.wait),
            preprocess: ms(latency.preprocess),
            infer: ms(latency.infer),
            postprocess: ms(latency.postprocess),
            total: ms(latency.total),
        }
    }
}

impl<'a> ObjectMessage<'a> {
    fn new(detection: &Detection, model: &'a ModelId, frame: Size) -> Self {
        let b = detection.bbox.normalized(frame);
        Self {
            label: model.label(detection.class_id),
            class_id: detection.class_id,
            score: fraction(detection.score, 1e4),
            bbox: [b.x1, b.y1, b.x2, b.y2].map(|edge| fraction(edge, 1e5)),
        }
    }
}

fn round(value: f64, digits: f64) -> f64 {
    (value * digits).round() / digits
}

/// `value` inside 0 ..= 1; what is not a number becomes 0, because JSON cannot say it.
fn fraction(value: f32, digits: f64) -> f64 {
    if value.is_nan() { 0.0 } else { round(f64::from(value).clamp(0.0, 1.0), digits) }
}

fn short_sha(sha256: &str) -> &str {
    sha256.get(..8).unwrap_or(sha256)
}

fn ulid_out<S: Serializer>(id: &Ulid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.array_to_str(&mut [0; ulid::ULID_LEN]))
}

fn ulid_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ulid, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    Ulid::from_string(&text).map_err(serde::de::Error::custom)
}

fn time_out<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // A clock before 1970 would make the formatter fail; such a box has other troubles.
    serializer.collect_str(&humantime::format_rfc3339_millis((*time).max(UNIX_EPOCH)))
}

fn time_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}

/// A camera's state: `…/<camera>/status`, retained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusMessage<'a> {
    /// Version of this format: 1.
    pub v: u32,
    /// The state.
    pub state: CameraState,
    /// Since when: RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "time_out", deserialize_with = "time_in")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: SystemTime,
    /// Why, for people; `null` when there is nothing to say.
    pub reason: Option<Cow<'a, str>>,
    /// Failed attempts since the camera was last online.
    pub retries: u32,
}

impl<'a> StatusMessage<'a> {
    /// The message of `status`, borrowing its reason.
    pub fn new(status: &'a CameraStatus) -> Self {
        Self {
            v: VERSION,
            state: status.state,
            since: status.since,
            reason: status.reason.as_deref().map(Cow::Borrowed),
            retries: status.retries,
        }
    }

    /// Appends the message to `out` as one line of JSON without the line's end.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_json(self, out);
    }
}

/// Appends `value` to `out` as compact JSON. Nothing that Ocelli serialises can fail: no maps with odd keys, and a
/// `Vec` takes every byte; should it fail all the same, nothing is appended.
pub(crate) fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
    }
}

/// The JSON Schema of all messages, as in `configs/messages.schema.json`.
pub fn schema() -> serde_json::Value {
    let mut generator = schemars::SchemaGenerator::default();
    let one_of = [
        generator.subschema_for::<FrameMessage<'static>>(),
        generator.subschema_for::<StatusMessage<'static>>(),
        generator.subschema_for::<StatsSnapshot>(),
    ];
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Messages of Ocelli",
        "description": "`…/<camera>/frame` and JSON Lines: FrameMessage. `…/<camera>/status`: StatusMessage. `…/stats` and /api/v1/stats: StatsSnapshot.",
        "oneOf": one_of,
        "$defs": generator.take_definitions(true),
    })
}

#[cfg(test)]
mod tests {
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
            models: [("default".to_owned(), EngineReport { model: Some(model.clone()), engine: engine.clone() })]
                .into(),
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
}
