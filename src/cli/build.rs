//! `ocelli models build`: a model's GPU engine, ahead of time.

use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::detect::UNAVAILABLE;
use super::{Failure, models};
use crate::app::open_model;
use crate::config::{self, BackendChoice, ModelConfig};
use crate::infer::{self, BuildEvent, BuildRequest, Built, InferError};
use crate::model::ModelSpec;
use crate::telemetry;
use crate::telemetry::log::LogFormat;
use crate::types::{BackendKind, DEFAULT_MODEL};

/// How often a build says that it goes on: to scripts, and to people.
const NEWS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Longest request that is read.
const LONGEST: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An .onnx file or a model folder [default: all that the configuration's cameras use, else the one that `run` and
    /// `detect` take]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// For which backend; those that need no engine are only tried
    #[arg(long, default_value = "tensorrt", value_name = "tensorrt|cuda|openvino|cpu|tract", value_parser = super::detect::parse_backend)]
    backend: BackendChoice,
    /// Configuration file whose `model:` holds the options; repeat it to merge several, later ones win
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Override one key of the configuration, for example `--set model.tensorrt.fp16=true`
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Path of ONNX Runtime's library [default: that of the configuration, else ORT_DYLIB_PATH, else the usual places]
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// Print one line of JSON per second and event
    #[arg(long)]
    json: bool,
    /// Build in this very process, as one line of JSON on standard input asks; it may die of it
    #[arg(long, hide = true)]
    here: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    telemetry::log::init("warn", LogFormat::Auto).map_err(|error| Failure::new(2, error))?;
    if args.here {
        return here();
    }
    let backend = match args.backend {
        BackendChoice::Tensorrt => BackendKind::Tensorrt,
        BackendChoice::Cuda => BackendKind::Cuda,
        BackendChoice::Openvino => BackendKind::Openvino,
        BackendChoice::Cpu => BackendKind::Cpu,
        BackendChoice::Tract => BackendKind::Tract,
        BackendChoice::Auto => {
            return Err(Failure::new(2, anyhow::anyhow!("an engine is built for one backend: name it, not `auto`")));
        }
    };
    for (model, starts) in wanted(&args)? {
        build(&model, backend, starts.as_deref(), args.json)?;
    }
    Ok(())
}

/// The models that are built: all that cameras use, unless one is named; each with the folder in which the service
/// records its starts.
fn wanted(args: &Args) -> Result<Vec<(ModelConfig, Option<PathBuf>)>, Failure> {
    let mut models = vec![(ModelConfig::default(), None)];
    if !args.config.is_empty() {
        let config = config::load(&args.config, &args.set).map_err(|errors| Failure::new(78, errors))?;
        models = match args.model {
            Some(_) => vec![(config.model.clone(), config.starts_folder(DEFAULT_MODEL))],
            None => {
                let used = config.used_models().into_iter();
                used.map(|(name, model)| (model.clone(), config.starts_folder(name))).collect()
            }
        };
    }
    for (model, _) in &mut models {
        if let Some(file) = &args.model {
            (model.file, model.sha256) = (Some(file.clone()), None);
        }
        model.ort_library = args.ort_library.clone().or(model.ort_library.take());
    }
    Ok(models)
}

fn build(model: &ModelConfig, backend: BackendKind, starts: Option<&Path>, json: bool) -> Result<(), Failure> {
    let spec = Arc::new(open_model(model)?);
    let forgotten = starts.map(|folder| forget(folder, &spec)).transpose()?.flatten();
    if let Some(line) = forgotten.filter(|_| !json) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    let started = Instant::now();
    let built = std::thread::scope(|scope| {
        let (tell, phases) = sync_channel::<String>(16);
        let builds = scope.spawn(move || {
            // A full queue has enough phases to show; this one is soon followed by another.
            infer::build_engine(spec, model, backend, &|phase| drop(tell.try_send(phase.into())))
        });
        let mut news = News { json, started, phase: "starting".into() };
        loop {
            match phases.recv_timeout(if json { NEWS.0 } else { NEWS.1 }) {
                Ok(phase) => news.phase = phase,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            news.tell();
        }
        let failed = || InferError::Build { backend, reason: "the building thread panicked".into() };
        builds.join().unwrap_or_else(|_| Err(failed()))
    });
    match built {
        Ok(built) => verdict(json, backend, built, started),
        Err(error) => {
            if json {
                say(BuildEvent::Failed { error: error.to_string() });
            }
            Err(Failure::new(UNAVAILABLE, error))
        }
    }
}

/// Who asks for a build has mended something: the service tries all backends of this model again.
fn forget(state_dir: &Path, spec: &ModelSpec) -> Result<Option<String>, Failure> {
    let died = infer::forget_deaths(state_dir, spec).with_context(|| {
        let folder = state_dir.display();
        format!("cannot clear the record of starts in {folder}: run this as the service's user, who owns the folder")
    })?;
    let line = || format!("earlier starts that died on {} do not count any more", died.join(", "));
    Ok((!died.is_empty()).then(line))
}

/// What a build says while it goes on.
struct News {
    json: bool,
    started: Instant,
    phase: String,
}

impl News {
    fn tell(&self) {
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let line = if self.json {
            let event = BuildEvent::Phase { phase: self.phase.clone(), elapsed_s };
            serde_json::to_string(&event).unwrap_or_default()
        } else {
            format!("{elapsed_s:6.0} s  {}", self.phase)
        };
        // A reader that has gone is no reason to stop a build.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

fn verdict(json: bool, backend: BackendKind, built: Built, started: Instant) -> Result<(), Failure> {
    let line = match built {
        _ if json => serde_json::to_string(&BuildEvent::Done { elapsed_s: started.elapsed().as_secs_f64() })?,
        Built::New(folder) => format!("engine for {backend} built: {}", folder.display()),
        Built::Before(folder) => format!("engine for {backend} was built before: {}", folder.display()),
        Built::Nothing => format!("{backend} needs no engine; it loads the model and runs it"),
    };
    let _ = writeln!(std::io::stdout(), "{line}");
    Ok(())
}

/// What the child does: it reads the request, builds, and prints events.
fn here() -> Result<(), Failure> {
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut line)?;
    let request: BuildRequest = serde_json::from_str(&line)?;
    // When the process that asked has died, nobody needs the engine of a build that goes on for minutes.
    std::thread::Builder::new().name("build-parent".into()).spawn(|| {
        let mut rest = [0; 64];
        while std::io::stdin().lock().read(&mut rest).is_ok_and(|count| count > 0) {}
        infer::remove_temporary_folder();
        signal_hook::low_level::exit(1);
    })?;
    let started = Instant::now();
    let outcome = open_model(&request.config).map_err(anyhow::Error::from).and_then(|spec| {
        let spec = Arc::new(spec);
        let prove = |session, info| models::agrees(&spec, session, info, &request.config);
        Ok(infer::build_here(spec.clone(), &request, &say, &prove)?)
    });
    // The one who asked reads the verdict, and nobody else reads this process's words.
    say(match outcome {
        Ok(()) => BuildEvent::Done { elapsed_s: started.elapsed().as_secs_f64() },
        Err(error) => BuildEvent::Failed { error: format!("{error:#}") },
    });
    Ok(())
}

fn say(event: BuildEvent) {
    let mut stdout = std::io::stdout().lock();
    if let Ok(line) = serde_json::to_string(&event) {
        let _ = writeln!(stdout, "{line}");
        let _ = stdout.flush();
    }
}
