//! What a view, its thread and the RTSP library's threads share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::encoder_input::EncoderInput;
use crate::frame::Frame;
use crate::queue;
use crate::types::{CameraName, CameraStatus, FrameResult};

// Boxing frames would cost an allocation per frame to save a few bytes in a queue of 16.
#[allow(clippy::large_enum_variant)]
pub(super) enum Input {
    Frame(Frame),
    Result(Arc<FrameResult>),
}

/// The newest frame, result and state: for the first picture of a viewer, and for the "no signal" picture.
#[derive(Default, Clone)]
pub(super) struct Known {
    pub(super) frame: Option<Frame>,
    pub(super) result: Option<Arc<FrameResult>>,
    pub(super) status: Option<CameraStatus>,
}

pub(super) struct Shared {
    pub(super) camera: CameraName,
    pub(super) known: Mutex<Known>,
    encoder_input: Mutex<Option<EncoderInput>>,
    /// True while there is an encoder: the only check that a frame without viewers costs.
    watched: AtomicBool,
    generations: AtomicU64,
    departures: AtomicU64,
    pub(super) input: queue::Sender<Input>,
    pub(super) waker: queue::Waker<Input>,
    pub(super) pushed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

// No holder of these locks runs foreign code, so a poisoned one is still good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(camera: &CameraName, input: queue::Sender<Input>, waker: queue::Waker<Input>) -> Self {
        Self {
            camera: camera.clone(),
            known: Mutex::default(),
            encoder_input: Mutex::default(),
            watched: AtomicBool::new(false),
            generations: AtomicU64::new(1),
            departures: AtomicU64::new(0),
            input,
            waker,
            pushed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    pub(super) fn encoder_input(&self) -> Option<EncoderInput> {
        lock(&self.encoder_input).clone()
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// Media that were removed, or are being removed.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// From now on viewers get a new media.
    pub(super) fn depart(&self) {
        self.departures.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn attach(&self, encoder_input: EncoderInput) {
        let previous = lock(&self.encoder_input).replace(encoder_input);
        drop(previous);
        self.watched.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Releases the media `generation`; a newer one stays.
    pub(super) fn detach(&self, generation: u64) {
        let gone = {
            let mut slot = lock(&self.encoder_input);
            let gone = slot.take_if(|encoder_input| encoder_input.generation == generation);
            self.watched.store(slot.is_some(), Ordering::Release);
            gone
        };
        // Outside the lock: dropping the last reference to an element takes locks of GStreamer.
        drop(gone);
        self.waker.wake();
    }

    pub(super) fn request_key_frame(&self) {
        if let Some(encoder_input) = self.encoder_input() {
            encoder_input.request_key_frame();
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }
}
