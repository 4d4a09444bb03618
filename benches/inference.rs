//! `cargo bench --bench inference`: CPU time per inference of the backends beside each other, and what our session adds.
//!
//! All candidates take turns within one run, in another order each round, and a figure is the median over the rounds of
//! a quotient of two neighbours in time: a busy machine then shifts both. CPU time is that of the whole process, the threads of the
//! runtimes included. Environment: `OCELLI_BENCH_MODELS` (files or model folders, separated by `:`; default: the shipped
//! model, and the document's detector at 640 and YOLOv5n with an open batch where they are there), `OCELLI_BENCH_ROUNDS`
//! (15), `ORT_DYLIB_PATH`, `OPENVINO_INSTALL_DIR`, `OCELLI_BENCH_PROFILE=1` (also: tract's time by operator). Half floats and bytes are made of each
//! model; `NAME_int8.onnx` is taken from beside `NAME.onnx`. Batches are run where the model leaves them open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ocelli::config::{BackendChoice, ModelConfig};
use ocelli::infer::{InferError, OrtBackend, Session, TractBackend, load};
use ocelli::model::{Elem, Input, InputTensor, ModelSpec, Prepare, prepare};
use ocelli::types::BackendKind;
use tract_onnx::prelude::*;
use tract_onnx::tract_core;
use tract_onnx::tract_core::internal::{EvalContext, OpState};

/// CPU milliseconds of the living threads of this process. Those that measure here do not end meanwhile.
fn cpu_ms() -> f64 {
    // The kernel books a running thread's time when it gives way.
    std::thread::yield_now();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ns = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    ns.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One way of running a model.
struct Candidate {
    name: String,
    run: Box<dyn FnMut()>,
    /// Frames in one run.
    frames: usize,
    /// CPU milliseconds per frame, one for each round.
    ms: Vec<f64>,
}

impl Candidate {
    fn new(name: impl Into<String>, run: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run), frames: 1, ms: Vec::new() }
    }
}

/// Runs all candidates `rounds` times, each round from another one on.
fn interleave(candidates: &mut [Candidate], rounds: usize) {
    let count = candidates.len();
    for candidate in candidates.iter_mut() {
        (candidate.run)(); // warm
    }
    for round in 0..rounds {
        for n in 0..count {
            let candidate = &mut candidates[(round + n) % count];
            let before = cpu_ms();
            (candidate.run)();
            candidate.ms.push((cpu_ms() - before) / candidate.frames as f64);
        }
    }
}

/// The median over the rounds of one candidate's CPU time over another's.
fn ratio(candidates: &[Candidate], over: &str, under: &str) -> Option<f64> {
    let find = |name: &str| candidates.iter().find(|candidate| candidate.name == name);
    let (over, under) = (find(over)?, find(under)?);
    Some(median(over.ms.iter().zip(&under.ms).map(|(over, under)| over / under).collect()))
}

fn line(what: &str, ratio: Option<f64>, bar: &str) {
    match ratio {
        Some(ratio) => println!("  {what:<62}{ratio:>7.3}   {bar}"),
        None => println!("  {what:<62}      –   not measured: a side of it is not there"),
    }
}

fn config(backend: BackendChoice, threads: usize) -> ModelConfig {
    ModelConfig { backend, threads: Some(threads), ..ModelConfig::default() }
}

fn session(spec: &ModelSpec, backend: BackendChoice, threads: usize) -> Result<Box<dyn Session>, InferError> {
    load(spec, &config(backend, threads)).map(|(session, _)| session)
}

/// Noise in the model's own range.
fn input(spec: &ModelSpec) -> InputTensor {
    let mut seed = 12345_u32;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        (seed >> 24) as u8
    };
    let mut input = InputTensor::new(&spec.input);
    match &mut input {
        InputTensor::Planes(planes) => planes.iter_mut().for_each(|v| *v = f32::from(next()) / spec.input.scale),
        InputTensor::Bytes(bytes) => bytes.iter_mut().for_each(|v| *v = next()),
    }
    input
}

/// The same for models that take f32.
fn planes(spec: &ModelSpec) -> Vec<f32> {
    match input(spec) {
        InputTensor::Planes(planes) => planes,
        InputTensor::Bytes(_) => panic!("{} takes bytes", spec.path.display()),
    }
}

/// Our session on `frames` frames at once.
fn ours(name: &str, mut session: Box<dyn Session>, spec: &ModelSpec, frames: usize) -> Candidate {
    let input = input(spec);
    let run = move || {
        let frames = vec![input.view(); frames];
        session.run(&frames, &mut |_, outputs| assert!(!outputs.is_empty())).unwrap()
    };
    Candidate { frames, ..Candidate::new(name, run) }
}

/// A model in all its forms: as it is, rewritten by `models prepare` into `folder`, and int8 where that lies beside it.
fn variants(spec: &ModelSpec, folder: &Path) -> Vec<(&'static str, ModelSpec)> {
    let mut variants = vec![("as it is", spec.clone())];
    let bytes = spec.bytes().unwrap();
    let plain = Prepare::default();
    for (kind, how) in [
        ("fp16", Prepare { fp16: true, ..plain }),
        ("u8", Prepare { bytes_input: true, ..plain }),
        ("u8 pixels", Prepare { bytes_input: true, channels_last: true, ..plain }),
    ] {
        let file = folder.join(format!("{}.onnx", kind.replace(' ', "_")));
        match prepare(&bytes, spec, how) {
            Ok(model) => {
                std::fs::write(&file, model).unwrap();
                variants.push((kind, ModelSpec::open(&file, None).unwrap()));
            }
            Err(error) => println!("  {kind} left out: {error}"),
        }
    }
    let stem = spec.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let int8 = spec.path.with_file_name(format!("{stem}_int8.onnx"));
    if int8.exists() {
        variants.push(("int8", ModelSpec::open(&int8, None).unwrap()));
    }
    variants
}

/// CPU time: tract and ONNX Runtime with one and two threads, in all precisions that are there.
fn backends(spec: &ModelSpec, rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut candidates = Vec::new();
    for (kind, spec) in variants(spec, folder.path()) {
        for (name, backend, threads) in [
            ("tract", BackendChoice::Tract, 1),
            ("ORT", BackendChoice::Cpu, 1),
            ("ORT 2 threads", BackendChoice::Cpu, 2),
            ("OpenVINO", BackendChoice::Openvino, 1),
        ] {
            match session(&spec, backend, threads) {
                Ok(session) => candidates.push(ours(&format!("{kind}, {name}"), session, &spec, 1)),
                Err(error) => println!("  {kind}, {name} left out: {error}"),
            }
        }
    }
    candidates.extend(untouched_tract(spec));
    interleave(&mut candidates, rounds);
    for candidate in &candidates {
        println!("  {:<62}{:>7.1}   CPU ms", candidate.name, median(candidate.ms.clone()));
    }
    let own = |name: &str| format!("as it is, {name}");
    line("tract / ORT, one thread each", ratio(&candidates, &own("tract"), &own("ORT")), "bar ≤ 1.30");
    line("tract without our rewriting / ORT", ratio(&candidates, "tract untouched", &own("ORT")), "");
    line("OpenVINO, f32 / ORT, one thread each", ratio(&candidates, &own("OpenVINO"), &own("ORT")), "");
    line("ORT with two threads / with one", ratio(&candidates, &own("ORT 2 threads"), &own("ORT")), "");
    for kind in ["fp16", "u8", "u8 pixels", "int8"] {
        let bar = if kind == "int8" { "bar ≤ 0.60 where the processor has VNNI" } else { "" };
        for backend in ["tract", "ORT", "OpenVINO"] {
            let what = format!("{kind} / as it is, {backend}");
            line(&what, ratio(&candidates, &format!("{kind}, {backend}"), &own(backend)), bar);
        }
    }
}

/// tract as it comes, to see what the rewriting of the graph gives.
fn untouched_tract(spec: &ModelSpec) -> Option<Candidate> {
    if spec.input.elem != Elem::Float32 || spec.input.size_input.is_some() {
        return None;
    }
    let model = onnx().model_for_path(&spec.path).unwrap();
    let fact = f32::fact(spec.input.shape(1)).into();
    let plan = model.with_input_fact(0, fact).unwrap().into_optimized().unwrap().into_runnable().unwrap();
    let mut state = plan.spawn().unwrap();
    let tensor = Arc::new(Tensor::from_shape(&spec.input.shape(1), &planes(spec)).unwrap());
    Some(Candidate::new("tract untouched", move || {
        state.run(tvec!(tensor.clone().into_tvalue())).unwrap();
    }))
}

/// What our session costs over the runtime's own call with the same options on the same input.
fn overhead(spec: &ModelSpec, rounds: usize) {
    if spec.input.elem != Elem::Float32 {
        println!("  session over the bare call: only measured where the model takes f32");
        return;
    }
    let input = planes(spec);
    let mut candidates = Vec::new();
    if let Ok(session) = session(spec, BackendChoice::Tract, 1) {
        candidates.extend([ours("tract", session, spec, 1), bare_tract(spec, &input)]);
    }
    if let Ok(session) = session(spec, BackendChoice::Cpu, 1) {
        candidates.extend([ours("ORT", session, spec, 1), bare_ort(spec, &input)]);
    }
    interleave(&mut candidates, rounds);
    line("session / plan, tract", ratio(&candidates, "tract", "bare tract"), "bar ≤ 1.01");
    line("session / call, ORT", ratio(&candidates, "ORT", "bare ORT"), "bar ≤ 1.01");
}

/// tract's plan on a tensor that is there already, its output read.
fn bare_tract(spec: &ModelSpec, input: &[f32]) -> Candidate {
    let mut state = TractBackend.plan(spec).unwrap().spawn().unwrap();
    let tensor = Arc::new(Tensor::from_shape(&spec.input.shape(1), input).unwrap());
    Candidate::new("bare tract", move || {
        let outputs = state.run(tvec!(tensor.clone().into_tvalue())).unwrap();
        assert!(!outputs.is_empty());
    })
}

/// ONNX Runtime's call on memory that is there already, its output read.
fn bare_ort(spec: &ModelSpec, input: &[f32]) -> Candidate {
    let backend = OrtBackend::new(BackendKind::Cpu, None, 1).unwrap();
    let mut session = backend.bare(spec).unwrap();
    let (input, shape) = (input.to_vec(), spec.input.shape(1).map(|n| n as i64));
    Candidate::new("bare ORT", move || {
        let tensor = ort::value::TensorRef::from_array_view((shape, input.as_slice())).unwrap();
        let outputs = session.run(ort::inputs![tensor]).unwrap();
        assert!(outputs.len() > 0);
    })
}

/// Frames per second of wall time that sessions reach, one thread each.
fn rate(sessions: &mut [Box<dyn Session>], input: Input<'_>, frames: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for session in sessions.iter_mut() {
            scope.spawn(move || {
                for _ in 0..frames {
                    session.run_one(input, &mut |outputs| assert!(!outputs.is_empty())).unwrap();
                }
            });
        }
    });
    (sessions.len() * frames) as f64 / start.elapsed().as_secs_f64()
}

/// Two sessions of one thread against one of two: the only figures of wall time, so they need two idle cores.
fn frame_parallel(spec: &ModelSpec, rounds: usize) {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("  frame-parallel: needs two cores");
        return;
    }
    let input = input(spec);
    for (name, backend, bar) in [
        ("ORT: two sessions of one thread / one of two, frames/s", BackendChoice::Cpu, "bar ≥ 1.30"),
        ("tract: two sessions / one, which is one thread", BackendChoice::Tract, "no bar: tract has no wider session"),
    ] {
        let threads = if backend == BackendChoice::Tract { 1 } else { 2 };
        let (Ok(one), Ok(wide)) = (session(spec, backend, 1), session(spec, backend, threads)) else {
            line(name, None, bar);
            continue;
        };
        let mut narrow = vec![one.fork()().unwrap(), one];
        let mut wide = [wide];
        rate(&mut narrow, input.view(), 1); // warm
        let ratios =
            (0..rounds).map(|_| rate(&mut narrow, input.view(), 4) / rate(&mut wide, input.view(), 8)).collect();
        line(name, Some(median(ratios)), bar);
    }
}

/// CPU time per frame of batches over single pictures.
fn batches(spec: &ModelSpec, rounds: usize) {
    if !spec.input.batch.open {
        println!("  batches: this model's is fixed");
        return;
    }
    let name = |frames: usize| format!("batch of {frames}");
    let mut candidates = Vec::new();
    for frames in [1, 2, 4, 8] {
        let mut spec = spec.clone();
        spec.set_batch(Some(frames)).unwrap();
        match session(&spec, BackendChoice::Cpu, 1) {
            Ok(session) => candidates.push(ours(&name(frames), session, &spec, frames)),
            Err(error) => println!("  {} left out: {error}", name(frames)),
        }
    }
    interleave(&mut candidates, rounds);
    for frames in [2, 4, 8] {
        let what = format!("ORT: a frame of a batch of {frames} / a frame alone");
        line(&what, ratio(&candidates, &name(frames), &name(1)), "");
    }
}

/// tract's time by operator: wall time, so alone on a core.
fn profile(spec: &ModelSpec) {
    let plan = TractBackend.plan(spec).unwrap();
    let mut state = plan.spawn().unwrap();
    let tensor = Arc::new(Tensor::from_shape(&spec.input.shape(1), &planes(spec)).unwrap());
    let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..9 {
        let eval = |context: &EvalContext<'_>, state: Option<&mut (dyn OpState + 'static)>, node: &_, inputs| {
            let start = Instant::now();
            let outputs = tract_core::plan::eval(context, state, node, inputs);
            times.entry(node.id).or_default().push(start.elapsed().as_secs_f64() * 1e3);
            outputs
        };
        state.run_plan_with_eval(tvec!(tensor.clone().into_tvalue()), eval).unwrap();
    }
    let mut by_operator: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for (node, times) in times {
        let sum = by_operator.entry(plan.model().node(node).op.name().into()).or_default();
        *sum = (sum.0 + 1, sum.1 + median(times));
    }
    let mut rows: Vec<_> = by_operator.into_iter().collect();
    rows.sort_by(|one, other| other.1.1.total_cmp(&one.1.1));
    for (name, (nodes, ms)) in rows.into_iter().take(12) {
        println!("  {name:<40}{nodes:>5} nodes{ms:>9.2} ms");
    }
}

fn models() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("OCELLI_BENCH_MODELS") {
        return std::env::split_paths(&list).collect();
    }
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/families");
    let others = ["yolov5s_efficientnetv2_document_640.onnx", "yolov5n_coco_dynamic.onnx"];
    let others = others.map(|name| families.join(name)).into_iter().filter(|path| path.exists());
    ocelli::model::default_model().into_iter().chain(others).collect()
}

fn main() {
    ocelli::infer::set_prober(env!("CARGO_BIN_EXE_ocelli").into());
    let rounds = std::env::var("OCELLI_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let models = models();
    assert!(!models.is_empty(), "no model: set OCELLI_BENCH_MODELS");
    for model in models {
        let spec = ModelSpec::open(&model, None).unwrap();
        println!("\n{} at {}, {rounds} rounds, interleaved, medians", spec.path.display(), spec.input.size);
        backends(&spec, rounds);
        overhead(&spec, rounds);
        frame_parallel(&spec, rounds.div_ceil(3));
        batches(&spec, rounds.div_ceil(3));
        if std::env::var_os("OCELLI_BENCH_PROFILE").is_some() {
            profile(&spec);
        }
    }
}
