//! A backend for tests that runs, hangs and fails as a script says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::infer::{Backend, Consume, Fork, InferError, Session, check_frames};
use crate::model::{Batch, ChannelOrder, DecodeParams, Elem, Family, Input, InputSpec, ModelSpec, OutputSpec};
use crate::types::{BackendInfo, BackendKind, ModelId, Padding, Size};

/// First value of an input that makes the session fail.
pub(in crate::infer) const FAIL: f32 = -1.0;
/// First value of an input that makes the session panic.
pub(in crate::infer) const PANIC: f32 = -2.0;

/// What goes wrong in each inference.
#[derive(Debug, Clone)]
pub(in crate::infer) enum Fault {
    /// An error of the runtime with this text.
    Error(&'static str),
    /// All values of the output are this one.
    Output(f32),
    /// The output has not the declared shape.
    Shape,
}

/// Which inputs may run, by their first value; what ran, in order.
#[derive(Default)]
pub(in crate::infer) struct Script {
    state: Mutex<(BTreeSet<i64>, bool)>,
    changed: Condvar,
    ran: Mutex<Vec<f32>>,
    runs: Mutex<Vec<usize>>,
    fault: Mutex<Option<Fault>>,
    /// Whether sessions take until the test allows it to close, and whether one is closing.
    closing: Mutex<(bool, bool)>,
    /// Sessions that were made by forking.
    pub(in crate::infer) forks: AtomicUsize,
}

impl Script {
    /// A script that lets everything run.
    pub(in crate::infer) fn open() -> Arc<Self> {
        let script = Arc::new(Self::default());
        script.allow_all();
        script
    }

    /// A script that lets nothing run yet.
    pub(in crate::infer) fn closed() -> Arc<Self> {
        Arc::default()
    }

    pub(in crate::infer) fn allow_all(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    /// From now on nothing runs: each inference hangs until it is allowed.
    pub(in crate::infer) fn hang(&self) {
        *self.state.lock().unwrap() = Default::default();
    }

    pub(in crate::infer) fn fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(in crate::infer) fn allow(&self, value: i64) {
        self.state.lock().unwrap().0.insert(value);
        self.changed.notify_all();
    }

    /// Frames of each run.
    pub(in crate::infer) fn runs(&self) -> Vec<usize> {
        self.runs.lock().unwrap().clone()
    }

    pub(in crate::infer) fn ran(&self) -> Vec<f32> {
        self.ran.lock().unwrap().clone()
    }

    /// From now on closing a session takes until [`Self::finish_closing`].
    pub(in crate::infer) fn close_slowly(&self) {
        self.closing.lock().unwrap().0 = true;
    }

    pub(in crate::infer) fn is_closing(&self) -> bool {
        self.closing.lock().unwrap().1
    }

    pub(in crate::infer) fn finish_closing(&self) {
        self.closing.lock().unwrap().0 = false;
    }

    fn close(&self) {
        while self
            .closing
            .lock()
            .map(|mut closing| {
                closing.1 = true;
                closing.0
            })
            .unwrap_or(false)
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn enter(&self, values: &[f32]) {
        self.ran.lock().unwrap().extend(values);
        self.runs.lock().unwrap().push(values.len());
        self.changed.notify_all();
        let mut state = self.state.lock().unwrap();
        while !state.1 && values.iter().any(|value| !state.0.contains(&(*value as i64))) {
            state = self.changed.wait(state).unwrap();
        }
    }
}

pub(in crate::infer) struct FakeSession {
    pub(in crate::infer) script: Arc<Script>,
    pub(in crate::infer) output: Vec<f32>,
    /// Frames in a run at most.
    pub(in crate::infer) batch: usize,
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.script.close();
    }
}

impl FakeSession {
    pub(in crate::infer) fn new(script: &Arc<Script>) -> Self {
        Self::batching(script, 1)
    }

    /// A session that takes `batch` frames at once.
    pub(in crate::infer) fn batching(script: &Arc<Script>, batch: usize) -> Self {
        Self { script: script.clone(), output: vec![0.0; spec().output.len()], batch }
    }
}

/// The first number of an input, by which a script knows it.
pub(in crate::infer) fn first(frame: Input<'_>) -> f32 {
    match frame {
        Input::Planes(planes) => planes[0],
        Input::Bytes(bytes) => f32::from(bytes[0]),
    }
}

impl Session for FakeSession {
    fn batch(&self) -> usize {
        self.batch
    }

    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        check_frames(&spec(), self.batch, frames)?;
        let firsts: Vec<f32> = frames.iter().copied().map(first).collect();
        self.script.enter(&firsts);
        if firsts.contains(&FAIL) {
            return Err(InferError::Run { backend: BackendKind::Tract, reason: "told to fail".into() });
        }
        assert!(!firsts.contains(&PANIC), "told to panic");
        let fault = self.script.fault.lock().unwrap().clone();
        match fault {
            None => {}
            Some(Fault::Error(reason)) => {
                return Err(InferError::Run { backend: BackendKind::Tract, reason: reason.into() });
            }
            Some(Fault::Output(value)) => self.output.fill(value),
            Some(Fault::Shape) => return Err(InferError::Output { expected: self.output.len(), got: 1 }),
        }
        for frame in 0..frames.len() {
            consume(frame, &[&self.output]);
        }
        Ok(())
    }

    fn fork(&self) -> Fork {
        let (script, output, batch) = (self.script.clone(), vec![0.0; self.output.len()], self.batch);
        Arc::new(move || {
            script.forks.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Self { script: script.clone(), output: output.clone(), batch }))
        })
    }
}

/// A backend whose sessions return this output.
pub(in crate::infer) struct FakeBackend(pub(in crate::infer) BackendKind, pub(in crate::infer) Vec<f32>);

impl Backend for FakeBackend {
    fn probe(&self) -> Result<String, InferError> {
        Ok(format!("fake {}", self.0))
    }

    fn load(&self, _spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(FakeSession { script: Script::open(), output: self.1.clone(), batch: 1 }))
    }
}

/// A model of 2×2 pixels with one row of one class.
pub(in crate::infer) fn spec() -> ModelSpec {
    ModelSpec {
        id: Arc::new(ModelId { name: "fake".into(), sha256: String::new(), labels: vec!["thing".into()] }),
        path: "fake.onnx".into(),
        input: InputSpec {
            name: "images".into(),
            size: Size::new(2, 2),
            elem: Elem::Float32,
            channels_last: false,
            order: ChannelOrder::Rgb,
            scale: 255.0,
            padding: Padding::Centered,
            pad_value: 114,
            size_input: None,
            batch: Batch::ONE,
        },
        output: OutputSpec::single("output0", Family::YoloV5, 1, 1),
        strides: vec![2],
        dynamic: false,
        content_sha256: String::new(),
        manifest: None,
    }
}

pub(in crate::infer) fn info() -> BackendInfo {
    BackendInfo { kind: BackendKind::Tract, version: "fake".into(), fallbacks: Vec::new(), nodes: Default::default() }
}

pub(in crate::infer) fn params() -> DecodeParams {
    DecodeParams { threshold: 0.25, classes: None }
}
