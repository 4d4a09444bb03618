//! Starting a source and waiting for its first frame.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::error::SourceError;
use super::handle::Source;
use super::outputs::Outputs;
use crate::cancel::Cancel;
use crate::config::CameraConfig;
use crate::frame::Frame;
use crate::queue::{Receiver, RecvError, Sender};
use crate::types::CameraStatus;

/// Time between two checks for an error.
const TICK: Duration = Duration::from_millis(20);

/// Starts a source that puts its frames into `sender`, and takes the first frame from `from` on out of `frames`.
///
/// # Errors
/// The reason of the first attempt that failed.
pub(super) fn start(
    camera: &CameraConfig,
    sender: Sender<Frame>,
    frames: &Receiver<Frame>,
    from: Duration,
    cancel: &Cancel,
) -> Result<(Source, Frame), SourceError> {
    let (reported, states) = sync_channel(16);
    let status = Arc::new(move |status: CameraStatus| _ = reported.try_send(status));
    let source = Source::start(camera, Outputs { frames: sender, tap: None, status }, cancel)?;
    loop {
        let received = frames.recv_timeout(TICK);
        // A file that cannot be played reports why before it closes the queue.
        if let Some(reason) = states.try_iter().find_map(|status| status.reason) {
            return Err(SourceError::Stream(reason));
        }
        match received {
            Ok(frame) if u128::from(frame.meta.pts_ns) >= from.as_nanos() => return Ok((source, frame)),
            Err(RecvError::Closed) => return Err(SourceError::NoVideo("the file ended without a frame".into())),
            Ok(_) | Err(RecvError::Timeout | RecvError::Woken) => {}
        }
    }
}
