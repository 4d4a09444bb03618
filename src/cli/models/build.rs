//! `ocelli models build`: builds a model's GPU engine ahead of time.

use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::options::NamedModel;
use super::super::{Failure, exit, log_warnings};
use super::verify::agrees;
use crate::app::open_model;
use crate::config::{self, BackendChoice, ModelConfig};
use crate::infer::{self, BuildEvent, BuildRequest, Built, InferError};
use crate::model::ModelSpec;
use crate::types::{BackendKind, DEFAULT_MODEL};

/// Interval of progress lines, as JSON and as text.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Longest request that is read, bytes.
const LONGEST: u64 = 64 * 1024;

/// Without --model, all models of the configuration's cameras are built. --backend is tensorrt unless it is given; backends that need
/// no engine only try the model.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli models build
  ocelli models build -c ocelli.yaml --set model.tensorrt.fp16=true")]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    /// Configuration file whose `model:` holds the options; repeat it to merge several, later ones win
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Override one key of the configuration, for example `--set model.tensorrt.fp16=true`
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Print one line of JSON per second and event
    #[arg(long)]
    json: bool,
    /// Build in this process what one line of JSON on standard input names; the process may crash
    #[arg(long, hide = true)]
    here: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    log_warnings()?;
    if args.here {
        return here();
    }
    let choice = args.model.options.backend.unwrap_or(BackendChoice::Tensorrt);
    let Some(backend) = infer::named_backend(choice) else {
        let error = anyhow::anyhow!("an engine is built for one backend: name it, not `auto`");
        return Err(Failure::new(exit::USAGE, error));
    };
    for (model, starts) in wanted(&args)? {
        build(&model, backend.kind, starts.as_deref(), args.json)?;
    }
    Ok(())
}

/// The models to build: all that cameras use, unless one is named; each with the folder of the service's crash counter.
fn wanted(args: &Args) -> Result<Vec<(ModelConfig, Option<PathBuf>)>, Failure> {
    let mut models = vec![(ModelConfig::default(), None)];
    if !args.config.is_empty() {
        let config = config::load(&args.config, &args.set).map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        models = match args.model.model {
            Some(_) => vec![(config.model.clone(), config.starts_folder(DEFAULT_MODEL))],
            None => {
                let used = config.used_models().into_iter();
                used.map(|(name, model)| (model.clone(), config.starts_folder(name))).collect()
            }
        };
    }
    for (model, _) in &mut models {
        if let Some(file) = &args.model.model {
            (model.file, model.sha256) = (Some(file.clone()), None);
        }
        args.model.options.apply(model);
    }
    Ok(models)
}

fn build(model: &ModelConfig, backend: BackendKind, starts: Option<&Path>, json: bool) -> Result<(), Failure> {
    let spec = Arc::new(open_model(model)?);
    let forgotten = starts.map(|folder| forget(folder, &spec)).transpose()?.flatten();
    if let Some(line) = forgotten.filter(|_| !json) {
        say(&line);
    }
    let started = Instant::now();
    let built = std::thread::scope(|scope| {
        let (report, phases) = sync_channel::<String>(16);
        let builds = scope.spawn(move || {
            // Dropped when the queue is full: the next phase follows soon.
            infer::build_engine(spec, model, backend, &|phase| drop(report.try_send(phase.into())))
        });
        let mut phase = "starting".to_owned();
        loop {
            match phases.recv_timeout(if json { INTERVAL.0 } else { INTERVAL.1 }) {
                Ok(next) => phase = next,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let elapsed_s = started.elapsed().as_secs_f64();
            match json {
                true => emit(BuildEvent::Phase { phase: phase.clone(), elapsed_s }),
                false => say(&format!("{elapsed_s:6.0} s  {phase}")),
            }
        }
        let failed = || InferError::Build { backend, reason: "the building thread panicked".into() };
        builds.join().unwrap_or_else(|_| Err(failed()))
    });
    match built {
        Ok(_) if json => {
            emit(BuildEvent::Done { elapsed_s: started.elapsed().as_secs_f64() });
            Ok(())
        }
        Ok(built) => {
            say(&match built {
                Built::New(folder) => format!("engine for {backend} built: {}", folder.display()),
                Built::Before(folder) => format!("engine for {backend} was built before: {}", folder.display()),
                Built::Nothing => format!("{backend} needs no engine; it loads the model and runs it"),
            });
            Ok(())
        }
        Err(error) => {
            if json {
                emit(BuildEvent::Failed { error: error.to_string() });
            }
            Err(Failure::new(exit::UNAVAILABLE, error))
        }
    }
}

/// A build by hand resets the crash counter: the service tries all backends of this model again.
fn forget(state_dir: &Path, spec: &ModelSpec) -> Result<Option<String>, Failure> {
    let crashed = infer::reset_crash_counter(state_dir, spec).with_context(|| {
        let folder = state_dir.display();
        format!("cannot reset the crash counter in {folder}: run this as the service's user, who owns the folder")
    })?;
    let line = || format!("earlier starts that crashed on {} do not count any more", crashed.join(", "));
    Ok((!crashed.is_empty()).then(line))
}

/// The child process: reads the request, builds, and prints events.
fn here() -> Result<(), Failure> {
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut line)?;
    let request: BuildRequest = serde_json::from_str(&line)?;
    // Standard input closes when the parent process ends: the engine is not needed then.
    std::thread::Builder::new().name("build-parent".into()).spawn(|| {
        let mut rest = [0; 64];
        while std::io::stdin().lock().read(&mut rest).is_ok_and(|count| count > 0) {}
        infer::remove_temporary_folder();
        signal_hook::low_level::exit(1);
    })?;
    let started = Instant::now();
    let outcome = open_model(&request.config).map_err(anyhow::Error::from).and_then(|spec| {
        let spec = Arc::new(spec);
        let check = |session, info| agrees(&spec, session, info, &request.config);
        Ok(infer::build_here(spec.clone(), &request, &emit, &check)?)
    });
    // The parent process reads the result from standard output; nothing else is printed.
    emit(match outcome {
        Ok(()) => BuildEvent::Done { elapsed_s: started.elapsed().as_secs_f64() },
        Err(error) => BuildEvent::Failed { error: format!("{error:#}") },
    });
    Ok(())
}

fn emit(event: BuildEvent) {
    if let Ok(line) = serde_json::to_string(&event) {
        say(&line);
    }
}

fn say(line: &str) {
    // A closed pipe does not stop a build.
    let _ = writeln!(std::io::stdout(), "{line}");
}
