//! `make bench`: what Ocelli costs besides the model, and how much of the bare session's rate it keeps.
//!
//! Everything runs in one interleaved loop on the same threads, in CPU time where possible, so that a busy machine shifts
//! all figures alike. Environment: `OCELLI_BENCH_CLIP`, `OCELLI_BENCH_MODEL`, `OCELLI_BENCH_BACKEND` (tract, cpu, openvino),
//! `OCELLI_BENCH_ROUNDS` (3), `OCELLI_BENCH_PEER` (a script with the options of `hand.py`), `OCELLI_BENCH_PYTHON`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ocelli::cancel::Cancel;
use ocelli::config::{
    BackendChoice, CameraConfig, DetectConfig, ModelConfig, MqttConfig, ReconnectConfig, SourceConfig,
};
use ocelli::infer::Engine;
use ocelli::model::{Input, ModelSpec};
use ocelli::pipeline::{Camera, CameraParts, Detector};
use ocelli::queue::{self, DropPolicy};
use ocelli::sink::mqtt::MqttSink;
use ocelli::source::{Outputs, Source};
use ocelli::telemetry::Registry;
use ocelli::types::Size;

/// CPU seconds of this process, its dead threads included.
fn process_cpu() -> f64 {
    stat_seconds("/proc/self/stat", 13, 14)
}

/// CPU seconds of children that have been waited for.
fn children_cpu() -> f64 {
    stat_seconds("/proc/self/stat", 15, 16)
}

fn stat_seconds(path: &str, from: usize, to: usize) -> f64 {
    let text = std::fs::read_to_string(path).unwrap();
    // The command's name may hold blanks; fields are counted from behind it.
    let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
    // Clock ticks are 1/100 s on every Linux that this runs on.
    (from..=to).map(|n| fields[n - 2].parse::<f64>().unwrap() / 100.0).sum()
}

/// CPU seconds of the living threads, by the first part of their name.
fn thread_cpu() -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name: String = read("comm").trim().split(['-', ':']).next().unwrap_or_default().into();
        let ns: f64 = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0);
        *all.entry(name).or_insert(0.0) += ns / 1e9;
    }
    all
}

struct Setup {
    clip: PathBuf,
    model: ModelConfig,
    rounds: usize,
    mqtt: MqttConfig,
    _broker: Broker,
}

/// mosquitto, ended with the benchmark.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Round {
    frames: u64,
    wall: f64,
    cpu: f64,
    infer_cpu: f64,
    threads: BTreeMap<String, f64>,
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    path.exists().then_some(path)
}

fn setup() -> Setup {
    let var = |name: &str| std::env::var(name).ok();
    let clip = var("OCELLI_BENCH_CLIP").map(PathBuf::from).or_else(|| shared("data/clips/vtest_1080p_120f.mp4"));
    let clip = clip.unwrap_or_else(synthetic_clip);
    let file = var("OCELLI_BENCH_MODEL").map(PathBuf::from).or_else(ocelli::model::default_model);
    let file = file.or_else(|| shared("data/models/yolov5n_coco_640.onnx"));
    let backend = match var("OCELLI_BENCH_BACKEND").as_deref() {
        None | Some("tract") => BackendChoice::Tract,
        Some("cpu") => BackendChoice::Cpu,
        Some("openvino") => BackendChoice::Openvino,
        Some("cuda") => BackendChoice::Cuda,
        Some("tensorrt") => BackendChoice::Tensorrt,
        Some(other) => panic!("OCELLI_BENCH_BACKEND: {other} is none of tract, cpu, openvino, cuda, tensorrt"),
    };
    let model = ModelConfig { file, backend, ..ModelConfig::default() };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut broker = Command::new("mosquitto");
    broker.args(["-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    broker.env("PATH", format!("{}:/usr/sbin", var("PATH").unwrap_or_default()));
    let broker = broker.spawn().expect("mosquitto must be installed: make setup");
    let mqtt = MqttConfig {
        url: ocelli::config::Broker { host: "127.0.0.1".into(), port, tls: false },
        ..MqttConfig::default()
    };
    let rounds = var("OCELLI_BENCH_ROUNDS").and_then(|n| n.parse().ok()).unwrap_or(3);
    Setup { clip, model, rounds, mqtt, _broker: Broker(broker) }
}

/// 120 moving frames of 1080p, where no real clip is at hand.
fn synthetic_clip() -> PathBuf {
    let path = std::env::temp_dir().join("ocelli-bench-1080p.mp4");
    println!("no clip given (OCELLI_BENCH_CLIP): a synthetic one is used, without objects");
    let status = Command::new("gst-launch-1.0")
        .args(["-q", "videotestsrc", "num-buffers=120", "pattern=smpte75", "horizontal-speed=8", "!"])
        .args(["video/x-raw,format=I420,width=1920,height=1080,framerate=30/1", "!", "x264enc", "bitrate=4000", "!"])
        .args(["h264parse", "!", "mp4mux", "!", "filesink", &format!("location={}", path.display())])
        .status()
        .expect("gst-launch-1.0 must be installed: make setup");
    assert!(status.success());
    path
}

fn camera(setup: &Setup) -> CameraConfig {
    CameraConfig {
        name: "bench".into(),
        enabled: true,
        source: SourceConfig::File { path: setup.clip.clone(), looped: false, realtime: false },
        detect: DetectConfig::default(),
        reconnect: ReconnectConfig::default(),
    }
}

/// The session and nothing else: each worker runs it on the same tensor.
fn bare(spec: &Arc<ModelSpec>, setup: &Setup, frames: u64) -> Round {
    let (first, _) = ocelli::infer::load(spec, &setup.model).unwrap();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let fork = first.fork();
    let mut sessions = vec![first];
    while sessions.len() < workers {
        sessions.push(fork().unwrap());
    }
    let values = 3 * spec.input.size.w as usize * spec.input.size.h as usize;
    let each = frames / workers as u64;
    let tensor = vec![0.5f32; values];
    for session in &mut sessions {
        session.run_one(Input::Planes(&tensor), &mut |_| {}).unwrap(); // warm
    }
    let (cpu, start) = (process_cpu(), Instant::now());
    std::thread::scope(|scope| {
        for session in &mut sessions {
            let tensor = &tensor;
            scope.spawn(move || {
                for _ in 0..each {
                    session.run_one(Input::Planes(tensor), &mut |outputs| assert!(!outputs.is_empty())).unwrap();
                }
            });
        }
    });
    let wall = start.elapsed().as_secs_f64();
    let cpu = process_cpu() - cpu;
    Round { frames: each * workers as u64, wall, cpu, infer_cpu: cpu, threads: BTreeMap::new() }
}

/// The source alone: demultiplexing and decoding.
fn decode_only(setup: &Setup) -> Round {
    let (tx, rx) = queue::bounded("bench", 4, DropPolicy::Block);
    let (cpu, start) = (process_cpu(), Instant::now());
    let source =
        Source::start(&camera(setup), Outputs { frames: tx, tap: None, status: Arc::new(|_| {}) }, &Cancel::new())
            .unwrap();
    let mut frames = 0;
    while rx.recv_timeout(Duration::from_secs(30)).is_ok() {
        frames += 1;
    }
    let wall = start.elapsed().as_secs_f64();
    source.stop();
    Round { frames, wall, cpu: process_cpu() - cpu, infer_cpu: 0.0, threads: BTreeMap::new() }
}

/// File → boxes → MQTT, as `ocelli run` does it.
fn whole(engine: &Engine, setup: &Setup) -> Round {
    let registry = Registry::new("bench");
    let sink = MqttSink::start(&setup.mqtt, "bench", Duration::from_secs(10), registry.clone()).unwrap();
    let sink = Arc::new(sink);
    let config = camera(setup);
    let (tx, frames) = queue::bounded("frames", 4, DropPolicy::Block);
    let before = thread_cpu();
    let (cpu, start) = (process_cpu(), Instant::now());
    let outputs = Outputs { frames: tx, tap: None, status: Arc::new(|_| {}) };
    let source = Source::start(&config, outputs, &Cancel::new()).unwrap();
    let detector = Detector::new(engine, "bench", &config.detect, 1).unwrap();
    let parts = CameraParts {
        name: config.name.clone(),
        model: config.detect.model.clone(),
        frames,
        detector,
        fps: None,
        results: sink.clone(),
        registry: registry.clone(),
    };
    let camera = Camera::start(parts, &Cancel::new()).unwrap();
    while !camera.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let wall = start.elapsed().as_secs_f64();
    let mut threads = thread_cpu();
    let cpu = process_cpu() - cpu;
    for (name, seconds) in before {
        if let Some(now) = threads.get_mut(&name) {
            *now -= seconds;
        }
    }
    camera.join();
    source.stop();
    sink.stop(Duration::from_secs(5));
    let frames = registry.snapshot().cameras["bench"].results;
    Round { frames, wall, cpu, infer_cpu: threads.get("infer").copied().unwrap_or(0.0), threads }
}

/// The script that a user would write instead, with the same model, clip and broker.
fn peer(spec: &ModelSpec, setup: &Setup, frames: u64) -> Option<Round> {
    let script = std::env::var("OCELLI_BENCH_PEER").ok().map(PathBuf::from).or_else(|| shared("tools/peer/hand.py"))?;
    if spec.input.size != Size::new(640, 640) {
        // It scales to 640×640 whatever the model wants, and its threads never end after an error.
        println!("the peer script takes 640x640 models only: left out");
        return None;
    }
    let python = std::env::var("OCELLI_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(&python);
    command.arg(&script).args(["--engine", "ort", "--threads", "--nospin", "--model"]).arg(&spec.path);
    command.arg("--video").arg(&setup.clip).args([
        "--n",
        &frames.to_string(),
        "--mqtt",
        &setup.mqtt.url.port.to_string(),
    ]);
    let (cpu, start) = (children_cpu(), Instant::now());
    let output = command.stderr(Stdio::null()).output().ok()?;
    let wall = start.elapsed().as_secs_f64();
    let done = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("F ")).count() as u64;
    if done == 0 {
        println!("the peer script does not run here ({python}: needs onnxruntime, opencv, paho-mqtt): left out");
        return None;
    }
    let cpu = children_cpu() - cpu;
    Some(Round { frames: done, wall, cpu, infer_cpu: cpu, threads: BTreeMap::new() })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn per_frame(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(|round| value(round) * 1e3 / round.frames.max(1) as f64).collect())
}

fn main() {
    let setup = setup();
    let file = setup.model.file.clone().expect("no model: set OCELLI_BENCH_MODEL");
    let spec = Arc::new(ModelSpec::open(&file, None).unwrap());
    let engine = Engine::start(spec.clone(), &setup.model, &Cancel::new()).unwrap();
    let (workers, info) = (engine.workers(), engine.info());
    println!("clip {}, model {} at {}", setup.clip.display(), spec.id.name, spec.input.size);
    println!(
        "backend {} ({}), {workers} one-thread sessions, {} rounds, interleaved",
        info.kind, info.version, setup.rounds
    );
    let (mut bares, mut decodes, mut wholes, mut peers) = (vec![], vec![], vec![], vec![]);
    whole(&engine, &setup); // warm: plugins, pages, connections
    for _ in 0..setup.rounds {
        let round = whole(&engine, &setup);
        let frames = round.frames;
        wholes.push(round);
        bares.push(bare(&spec, &setup, frames));
        decodes.push(decode_only(&setup));
        peers.extend(peer(&spec, &setup, frames));
    }
    report(workers, &bares, &decodes, &wholes, &peers);
    drop(engine);
    service(&setup);
}

fn report(workers: usize, bares: &[Round], decodes: &[Round], wholes: &[Round], peers: &[Round]) {
    let bare_ms = per_frame(bares, |r| r.wall);
    let bare_cpu = per_frame(bares, |r| r.cpu);
    let decode = per_frame(decodes, |r| r.cpu);
    let ours_wall = per_frame(wholes, |r| r.wall);
    let ours_cpu = per_frame(wholes, |r| r.cpu);
    let infer = per_frame(wholes, |r| r.infer_cpu);
    println!();
    println!("per frame                        CPU ms    wall ms   frames/s");
    println!("bare session                   {bare_cpu:>8.2}   {bare_ms:>8.2}   {:>8.2}", 1e3 / bare_ms);
    println!("decode alone                   {decode:>8.2}");
    println!("file → boxes → MQTT            {ours_cpu:>8.2}   {ours_wall:>8.2}   {:>8.2}", 1e3 / ours_wall);
    println!("  of it in the engine's threads{infer:>8.2}");
    println!("  neither decode nor engine    {:>8.2}   (bar: 3)", ours_cpu - infer - decode);
    for (name, _) in wholes.first().map(|r| r.threads.clone()).unwrap_or_default() {
        println!("    threads {name:<19}{:>8.2}", per_frame(wholes, |r| r.threads.get(&name).copied().unwrap_or(0.0)));
    }
    // What the bare session leaves room for: its own CPU time plus decoding, spread over the cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let room = (bare_cpu + decode) / cores.min(workers) as f64;
    println!("rate over the bare session's                {:.3}", bare_ms / ours_wall);
    println!("rate over what the session leaves room for  {:.3}   (bar: 0.95)", room / ours_wall);
    if !peers.is_empty() {
        let (cpu, wall) = (per_frame(peers, |r| r.cpu), per_frame(peers, |r| r.wall));
        println!("the script, start included     {cpu:>8.2}   {wall:>8.2}   {:>8.2}", 1e3 / wall);
        println!("our CPU over the script's                   {:.3}", ours_cpu / cpu);
        println!("our rate over the script's                  {:.3}", wall / ours_wall);
    }
}

/// The executable itself: time to the first result, and memory with one live camera.
fn service(setup: &Setup) {
    let folder = std::env::temp_dir().join(format!("ocelli-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("ocelli.yaml");
    let lines = folder.join("out.jsonl");
    let model = std::path::absolute(setup.model.file.as_ref().unwrap()).unwrap();
    let clip = std::path::absolute(&setup.clip).unwrap();
    let backend = serde_json::to_value(setup.model.backend).unwrap();
    let backend = backend.as_str().unwrap();
    std::fs::write(
        &config,
        format!(
            "model: {{file: {}, backend: {backend}}}\nrtsp: {{listen: \"127.0.0.1:0\"}}\njsonl: {}\n\
             mqtt: mqtt://127.0.0.1:{}\ncameras:\n  bench: {{file: {}, loop: true, realtime: true}}\n",
            model.display(),
            lines.display(),
            setup.mqtt.url.port,
            clip.display()
        ),
    )
    .unwrap();
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .arg("run")
        .arg("-c")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while std::fs::metadata(&lines).map_or(0, |meta| meta.len()) == 0 && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "first detection {:.2} s after the start of `ocelli run`   (bar: 2 s with tract)",
        start.elapsed().as_secs_f64()
    );
    std::thread::sleep(Duration::from_secs(10));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
    };
    let size = std::fs::metadata(ModelSpec::open(&model, None).unwrap().path).map_or(0, |meta| meta.len()) as f64 / 1e6;
    println!(
        "memory with one live camera: {:.0} MB now, {:.0} MB at most, model file {size:.0} MB   (bar: 200 MB + model)",
        field("VmRSS:").unwrap_or(f64::NAN) / 1e3,
        field("VmHWM:").unwrap_or(f64::NAN) / 1e3
    );
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_dir_all(&folder);
}
