//! The messages as they travel: JSON on MQTT, in JSON Lines, and from `ocelli detect --json -`. One struct, one format.
//!
//! The format is frozen by `tests/golden/*.json` and described by `configs/messages.schema.json`, which is generated
//! from these structs. Fields may be added; a field never changes its meaning without a new `v`.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::telemetry::StatsSnapshot;
use crate::types::{BackendKind, CameraState, CameraStatus, Detection, FrameResult, Latency, ModelId, Size};

/// Version of the format of [`FrameMessage`] and [`StatusMessage`].
pub const VERSION: u32 = 1;

/// Distinguishes this run of the program from others, so that their ids do not collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(u32);

impl Run {
    /// Only the low 20 bits of `number` are used.
    pub const fn new(number: u32) -> Self {
        Self(number & 0xF_FFFF)
    }

    /// This process: a random number, drawn at the first call.
    pub fn of_process() -> Self {
        static RUN: OnceLock<Run> = OnceLock::new();
        *RUN.get_or_init(|| Self::new(fastrand::u32(..)))
    }

    /// The id of one frame's message, the same in every sink.
    ///
    /// A ULID: 48 bits of `captured_at` in milliseconds, then 20 bits of the run, 20 of the camera's name and 40 of
    /// `seq`: unique, and growing from frame to frame of a camera unless the wall clock is set back.
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
    /// `run` makes the id unique: [`Run::of_process`] outside tests.
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

    /// Appends the message to `out` as one line of JSON, without a line break.
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

/// `value` limited to 0 ..= 1; NaN, which JSON does not have, becomes 0.
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
    // The formatter fails on times before 1970.
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
    pub fn new(status: &'a CameraStatus) -> Self {
        Self {
            v: VERSION,
            state: status.state,
            since: status.since,
            reason: status.reason.as_deref().map(Cow::Borrowed),
            retries: status.retries,
        }
    }

    /// Appends the message to `out` as one line of JSON, without a line break.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_json(self, out);
    }
}

/// Appends `value` to `out` as compact JSON; appends nothing if that fails, which no message of Ocelli can.
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
#[path = "message_tests.rs"]
mod tests;
