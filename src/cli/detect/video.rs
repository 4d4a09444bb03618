//! Videos and streams: every frame of a file, the newest frame of a stream; written as one clip with the boxes drawn.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::pictures::DEADLINE;
use super::super::terminal::progress;
use super::super::{Failure, exit};
use super::output::{JsonLines, Output};
use super::stills::camera_name;
use crate::annotate;
use crate::app::{STOP_WITHIN, Signals};
use crate::config::{CameraConfig, DetectConfig, ReconnectConfig, SourceConfig, Transport};
use crate::frame::Frame;
use crate::infer::Engine;
use crate::pipeline::Detector;
use crate::queue::{self, DropPolicy, RecvError};
use crate::sink::video_file::VideoFile;
use crate::source::{Outputs, Source};
use crate::types::{CameraState, CameraStatus, FrameResult, redact};

/// A stream must deliver its first frame within this time.
const FIRST_FRAME: Duration = Duration::from_secs(20);

/// A video file: once, every frame.
pub(super) fn file(path: &Path) -> (PathBuf, SourceConfig) {
    (path.to_owned(), SourceConfig::File { path: path.to_owned(), looped: false, realtime: false })
}

/// A live stream, named after the last part of its path, else its host.
pub(super) fn stream(url: &str) -> (PathBuf, SourceConfig) {
    let shown = redact(url);
    let path = shown.split(['?', '#']).next().unwrap_or_default();
    let part = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("stream");
    let name = part.rsplit('@').next().unwrap_or(part).to_owned();
    let source = SourceConfig::Rtsp {
        url: url.to_owned(),
        username: None,
        password: None,
        transport: Transport::Tcp,
        latency: Duration::from_millis(200),
    };
    (name.into(), source)
}

/// The camera's latest status.
type Status = Arc<Mutex<Option<CameraStatus>>>;

fn latest(status: &Status) -> Option<CameraStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(super) fn run(
    (name, source): (PathBuf, SourceConfig),
    engine: &Engine,
    config: &DetectConfig,
    limit: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let live = source.is_live();
    let camera = CameraConfig {
        name: camera_name(&name),
        enabled: true,
        source,
        detect: config.clone(),
        reconnect: ReconnectConfig::default(),
    };
    let (tx, frames) = if live { queue::latest("frames") } else { queue::bounded("frames", 4, DropPolicy::Block) };
    let status: Status = Arc::default();
    let seen = status.clone();
    let outputs = Outputs {
        frames: tx,
        tap: None,
        status: Arc::new(move |status| *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(status)),
    };
    let mut detector = Detector::new(engine, &camera.name, config, usize::from(!live))?;
    let waker = frames.waker();
    detector.on_done(Arc::new(move || waker.wake()));
    let signals = Signals::start(STOP_WITHIN)?;
    let source = Source::start(&camera, outputs, signals.cancel())?;
    let mut run =
        Run { writer: Writer::new(&name, output.folder()), detector, waiting: VecDeque::new(), output, done: 0 };
    let outcome = run.until_the_end(&frames, &signals, &status, limit, live);
    // The queue is closed before the source stops: the source may be blocked on a full queue.
    frames.close();
    source.stop();
    let finished = run.writer.finish();
    outcome?;
    finished?;
    Ok(())
}

struct Run<'a> {
    detector: Detector,
    waiting: VecDeque<Frame>,
    writer: Writer,
    output: &'a mut Output,
    done: u64,
}

impl Run<'_> {
    fn until_the_end(
        &mut self,
        frames: &queue::Receiver<Frame>,
        signals: &Signals,
        status: &Status,
        limit: Option<u64>,
        live: bool,
    ) -> Result<(), Failure> {
        let bar = progress(limit.unwrap_or(0));
        let started = std::time::Instant::now();
        let mut taken = 0;
        while limit.is_none_or(|limit| taken < limit)
            && !signals.cancel().is_cancelled()
            && !signals.hangup(Duration::ZERO)
        {
            self.publish_done(Duration::ZERO)?;
            bar.set_position(self.done);
            if !self.detector.has_room() {
                self.publish_done(DEADLINE)?;
                continue;
            }
            match frames.recv_timeout(Duration::from_millis(250)) {
                Ok(frame) => {
                    taken += 1;
                    self.take(frame)?;
                }
                Err(RecvError::Closed) => break,
                Err(RecvError::Woken | RecvError::Timeout) => {
                    if live && taken == 0 {
                        give_up(status, started.elapsed())?;
                    }
                }
            }
        }
        while !self.waiting.is_empty() {
            if !self.publish_done(DEADLINE)? {
                return Err(anyhow::anyhow!("no answer from the engine within {DEADLINE:?}").into());
            }
            bar.set_position(self.done);
        }
        bar.finish_and_clear();
        if self.done == 0 && limit != Some(0) {
            let reason =
                latest(status).and_then(|status| status.reason).unwrap_or_else(|| "no frame was decoded".into());
            return Err(anyhow::anyhow!("{reason}").into());
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), Failure> {
        {
            let mapped = frame.map()?;
            self.detector.submit(frame.meta.clone(), &mapped.view()?)?;
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    /// True when at least one frame was finished.
    fn publish_done(&mut self, timeout: Duration) -> Result<bool, Failure> {
        let mut timeout = timeout;
        let mut any = false;
        while let Some(outcome) = self.detector.finish(timeout) {
            let result = outcome?;
            let Some(frame) = self.waiting.pop_front() else { break };
            self.output.frame(&result)?;
            self.writer.push(frame, &result)?;
            self.done += 1;
            any = true;
            timeout = Duration::ZERO;
        }
        Ok(any)
    }
}

/// A wrong password, or no frame in time, is an error here; the service would keep trying.
fn give_up(status: &Status, waited: Duration) -> Result<(), Failure> {
    let status = latest(status);
    let refused = status.as_ref().is_some_and(|status| status.state == CameraState::AuthFailed);
    let failed = status.as_ref().is_some_and(|status| status.retries >= 3);
    if !refused && !failed && waited < FIRST_FRAME {
        return Ok(());
    }
    let reason = status.and_then(|status| status.reason).unwrap_or_else(|| format!("no frame within {waited:.0?}"));
    Err(Failure::new(exit::UNAVAILABLE, anyhow::anyhow!("the stream gives no picture: {reason}")))
}

/// The annotated clip and its JSON lines; opened at the first frame, when the size is known.
struct Writer {
    base: Option<PathBuf>,
    open: Option<(VideoFile, JsonLines)>,
}

impl Writer {
    fn new(name: &Path, folder: Option<&Path>) -> Self {
        let stem = name.file_stem().map_or_else(|| "video".into(), |stem| stem.to_string_lossy().into_owned());
        Self { base: folder.map(|folder| folder.join(stem)), open: None }
    }

    fn push(&mut self, mut frame: Frame, result: &FrameResult) -> anyhow::Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        if self.open.is_none() {
            let json = JsonLines::create(&base.with_extension("jsonl"))?;
            let clip = VideoFile::create(&base.with_extension("mp4"), frame.meta.size, frame_rate(&frame))?;
            self.open = Some((clip, json));
        }
        let Some((clip, json)) = &mut self.open else { return Ok(()) };
        json.push(result)?;
        frame.paint(|view| annotate::draw(view, &result.detections, &result.model))?;
        clip.push(frame)?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        if let Some((clip, _)) = self.open {
            clip.finish()?;
        }
        Ok(())
    }
}

/// Frames per second of the stream; 25 where it is unknown.
fn frame_rate(frame: &Frame) -> f64 {
    let rate = frame.info().fps();
    let rate = f64::from(rate.numer()) / f64::from(rate.denom().max(1));
    if (1.0..=240.0).contains(&rate) { rate } else { 25.0 }
}
