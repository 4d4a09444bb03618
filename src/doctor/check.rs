//! What a report consists of. Its JSON is frozen by `tests/golden/doctor.json` and described by
//! `configs/doctor.schema.json`, which is generated from these types: fields are added, never changed.

use serde::Serialize;

/// Version of the JSON report; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Fine.
    Ok,
    /// Ocelli runs, but not as well as it could.
    Warning,
    /// Something that this box's configuration needs is missing.
    Failed,
    /// Does not matter on this box, or could not be looked at.
    Skipped,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// The box itself: board, memory, clock, disk, devices.
    Machine,
    /// The model and what runs it.
    Inference,
    /// GStreamer: decoding, encoding.
    Video,
    /// What the configuration file names: broker, ports, cameras.
    Configuration,
}

impl Section {
    /// The heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Machine => "Machine",
            Self::Inference => "Inference",
            Self::Video => "Video",
            Self::Configuration => "Configuration",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Check {
    /// Stable name for scripts, for example `clock`, `decode.h264`, `camera.gate`.
    pub id: String,
    /// What it is about.
    pub section: Section,
    /// Name for people.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// What was seen, one sentence or a few words.
    pub detail: String,
    /// What to do about it; present with every warning and failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// `id` is also the displayed name unless [`Self::named`] sets one.
    pub(super) fn new(section: Section, id: impl Into<String>, status: Status, detail: impl Into<String>) -> Self {
        let id = id.into();
        Self { name: id.clone(), id, section, status, detail: detail.into(), fix: None }
    }

    pub(super) fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// How many checks went how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Counts {
    /// Fine.
    pub ok: usize,
    /// With a warning.
    pub warning: usize,
    /// Failed.
    pub failed: usize,
    /// Left out.
    pub skipped: usize,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// Version of Ocelli.
    pub ocelli: String,
    /// True when nothing failed; warnings do not count.
    pub ok: bool,
    /// How many checks went how.
    pub counts: Counts,
    /// In the order in which people read them.
    pub checks: Vec<Check>,
}

impl Report {
    /// Counts, and hides the credentials of any URL that found its way into a sentence.
    pub(super) fn new(mut checks: Vec<Check>) -> Self {
        let mut counts = Counts::default();
        for check in &mut checks {
            check.detail = crate::types::redact(&check.detail);
            check.fix = check.fix.take().map(|fix| crate::types::redact(&fix));
            match check.status {
                Status::Ok => counts.ok += 1,
                Status::Warning => counts.warning += 1,
                Status::Failed => counts.failed += 1,
                Status::Skipped => counts.skipped += 1,
            }
        }
        let ocelli = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA, ocelli, ok: counts.failed == 0, counts, checks }
    }
}
