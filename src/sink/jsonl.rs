//! JSON Lines: one [`FrameMessage`] per line, to a file or to standard output.
//!
//! The thread `sink-jsonl` writes. When the disk is full or the reader has gone, lines are dropped and counted; each later
//! line is tried, so writing resumes by itself. After a write that failed in the middle of a line, the next one begins on
//! a new line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Sink;
use super::message::{FrameMessage, Run};
use crate::config::JsonlConfig;
use crate::queue::{self, DropPolicy, RecvError};
use crate::telemetry::{Count, Registry};
use crate::types::{CameraStatus, FrameResult};

/// Results that may wait for the disk; beyond that the oldest is dropped.
const QUEUE: usize = 1024;
/// Lines are collected up to about this many bytes while more results wait, then written at once.
const BATCH: usize = 64 << 10;
/// Longest wait for a result; the queue wakes the writer earlier.
const IDLE: Duration = Duration::from_secs(3600);
/// How often a stop checks whether the writer has ended.
const POLL: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    #[error(
        "cannot write JSON Lines to {path}: {source}; check `jsonl.file`, that its folder exists and may be written"
    )]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start the thread sink-jsonl: {0}")]
    Thread(io::Error),
}

pub struct JsonlSink {
    /// The path, and the file that it led to when it was opened; `None` for standard output.
    opened: Option<(PathBuf, FileId)>,
    queue: queue::Sender<Arc<FrameResult>>,
    registry: Registry,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl JsonlSink {
    /// Opens the file for appending, creating it and its folder when absent (`-`: standard output), and starts the
    /// thread `sink-jsonl`.
    pub fn start(config: &JsonlConfig, registry: Registry) -> Result<Self, JsonlError> {
        let failed = |source| JsonlError::Open { path: config.file.clone(), source };
        let (output, opened): (Box<dyn Write + Send>, _) = if config.file == Path::new("-") {
            (Box::new(io::stdout()), None)
        } else {
            let file = open(&config.file).map_err(failed)?;
            let id = file_id(&file.metadata().map_err(failed)?);
            (Box::new(file), Some((config.file.clone(), id)))
        };
        Self::with_output(output, opened, config.file.display().to_string(), registry)
    }

    /// True when the path no longer leads to the open file: logrotate has moved it away.
    pub fn was_moved(&self) -> bool {
        let Some((path, id)) = &self.opened else { return false };
        std::fs::metadata(path).map_or(true, |now| file_id(&now) != *id)
    }

    fn with_output(
        output: Box<dyn Write + Send>,
        opened: Option<(PathBuf, FileId)>,
        name: String,
        registry: Registry,
    ) -> Result<Self, JsonlError> {
        let (queue, waiting) = queue::bounded("jsonl", QUEUE, DropPolicy::DropOldest);
        let writer =
            Writer { output, name, registry: registry.clone(), buffer: Vec::new(), torn: false, failing: false };
        let thread = std::thread::Builder::new()
            .name("sink-jsonl".into())
            .spawn(move || writer.run(&waiting))
            .map_err(JsonlError::Thread)?;
        Ok(Self { opened, queue, registry, thread: Mutex::new(Some(thread)) })
    }

    /// Writes the results in the queue and joins the thread. A reader that does not read can block a write for ever:
    /// after `deadline` the thread is left behind. A second call does nothing.
    pub fn stop(&self, deadline: Duration) {
        self.queue.close();
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let until = Instant::now() + deadline;
        while !thread.is_finished() {
            if Instant::now() >= until {
                // A thread inside write(2) cannot be woken; it holds nothing that other threads need.
                tracing::warn!("JSON Lines: the reader does not read, {} results are lost", self.queue.len());
                return;
            }
            std::thread::sleep(POLL);
        }
        if thread.join().is_err() {
            tracing::error!("the thread sink-jsonl panicked; please report this");
        }
    }
}

impl Sink for JsonlSink {
    fn result(&self, result: &Arc<FrameResult>) {
        if self.queue.send(result.clone()).is_some() {
            self.registry.count(Count::JsonlDropped, 1);
        }
    }

    fn status(&self, _status: &CameraStatus) {}
}

impl Drop for JsonlSink {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(metadata: &std::fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

struct Writer {
    output: Box<dyn Write + Send>,
    name: String,
    registry: Registry,
    /// Reused from batch to batch.
    buffer: Vec<u8>,
    /// The last write ended inside a line.
    torn: bool,
    /// The last write failed. Logged once, not for each line.
    failing: bool,
}

impl Writer {
    fn run(mut self, waiting: &queue::Receiver<Arc<FrameResult>>) {
        loop {
            match waiting.recv_timeout(IDLE) {
                Ok(result) => self.append(&result),
                Err(RecvError::Closed) => return,
                Err(_) => continue,
            }
            while self.buffer.len() < BATCH {
                match waiting.try_recv() {
                    Ok(result) => self.append(&result),
                    Err(_) => break,
                }
            }
            self.write_batch();
        }
    }

    fn append(&mut self, result: &FrameResult) {
        if self.buffer.is_empty() && self.torn {
            self.buffer.push(b'\n');
        }
        FrameMessage::new(result, Run::of_process()).write(&mut self.buffer);
        self.buffer.push(b'\n');
    }

    fn write_batch(&mut self) {
        let (written, outcome) = write_all(&mut *self.output, &self.buffer);
        let (done, lost) = self.buffer.split_at(written);
        if let Some(last) = done.last() {
            self.torn = *last != b'\n';
        }
        match outcome {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("JSON Lines: {} can be written again", self.name);
            }
            Ok(()) => {}
            Err(error) => {
                self.registry.count(Count::JsonlDropped, lost.iter().filter(|byte| **byte == b'\n').count() as u64);
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(
                        "JSON Lines: cannot write to {}: {error}; lines are dropped until it works",
                        self.name
                    );
                }
            }
        }
        self.buffer.clear();
    }
}

/// Like `Write::write_all`, but returns how many bytes were written.
fn write_all(output: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, output.flush())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::SystemTime;

    use super::*;
    use crate::types::{BackendKind, FrameMeta, Latency, ModelId, Size};

    fn result(seq: u64) -> Arc<FrameResult> {
        Arc::new(FrameResult {
            meta: FrameMeta {
                camera: "gate".into(),
                seq,
                pts_ns: 0,
                captured_at: SystemTime::now(),
                captured: Instant::now(),
                size: Size::new(4, 4),
            },
            model: Arc::new(ModelId { name: "m".into(), sha256: String::new(), labels: vec![] }),
            backend: BackendKind::Tract,
            batch: 1,
            detections: vec![],
            latency: Latency::default(),
        })
    }

    fn seqs(text: &str) -> Vec<u64> {
        text.lines().map(|line| serde_json::from_str::<FrameMessage<'static>>(line).unwrap().seq).collect()
    }

    #[test]
    fn a_file_gets_each_result_as_a_line_and_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/results.jsonl");
        for run in 0..2 {
            let sink = JsonlSink::start(&JsonlConfig { file: file.clone() }, Registry::new("n")).unwrap();
            for seq in 0..500 {
                sink.result(&result(500 * run + seq));
            }
            sink.stop(Duration::from_secs(30));
        }
        assert_eq!(seqs(&std::fs::read_to_string(&file).unwrap()), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = JsonlConfig { file: folder.path().into() };
        let error = JsonlSink::start(&config, Registry::new("n")).err().unwrap();
        assert!(error.to_string().contains(&folder.path().display().to_string()));
    }

    /// A disk that gets full in the middle of a line.
    struct Disk {
        room: mpsc::Receiver<usize>,
        left: usize,
        content: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while let Ok(room) = self.room.try_recv() {
                self.left = room;
            }
            let n = bytes.len().min(self.left);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.left -= n;
            self.content.lock().unwrap().extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_tears_none() {
        let (give, room) = mpsc::channel();
        let content = Arc::new(Mutex::new(Vec::new()));
        let registry = Registry::new("n");
        let disk = Disk { room, left: 100, content: content.clone() };
        let sink = JsonlSink::with_output(Box::new(disk), None, "disk".into(), registry.clone()).unwrap();
        sink.result(&result(0));
        let deadline = Instant::now() + Duration::from_secs(30);
        while registry.counter(Count::JsonlDropped) == 0 {
            assert!(Instant::now() < deadline, "the failed write was never counted");
            std::thread::yield_now();
        }
        give.send(usize::MAX).unwrap();
        sink.result(&result(1));
        sink.result(&result(2));
        sink.stop(Duration::from_secs(30));
        let text = String::from_utf8(content.lock().unwrap().clone()).unwrap();
        let (torn, whole) = text.split_once('\n').unwrap();
        assert_eq!(torn.len(), 100);
        assert_eq!(seqs(whole), [1, 2]);
        assert_eq!(registry.counter(Count::JsonlDropped), 1);
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_neither_results_nor_the_stop() {
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = mpsc::channel();
        let registry = Registry::new("n");
        let sink = JsonlSink::with_output(Box::new(Stuck(stuck)), None, "pipe".into(), registry.clone()).unwrap();
        for seq in 0..2 * QUEUE as u64 + BATCH as u64 {
            sink.result(&result(seq));
        }
        sink.stop(Duration::from_millis(50));
        assert!(registry.counter(Count::JsonlDropped) > 0);
        drop(release);
    }
}
