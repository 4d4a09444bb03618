//! The command line: one file per verb. `anyhow` stops here.

mod build;
mod completions;
mod config;
mod detect;
mod doctor;
mod eval;
mod man;
mod models;
mod probe;
mod run;
mod simulate;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::infer;

/// Cameras in, detections out: MQTT messages and RTSP streams with the boxes drawn in.
#[derive(Debug, Parser)]
#[command(name = "ocelli", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Detect in a picture, a folder, a video or a stream
    Detect(detect::Args),
    /// Measure a model's average precision on labelled pictures
    Eval(eval::Args),
    /// Run the service: all cameras of a configuration file
    Run(run::Args),
    /// Check, show or describe the configuration
    Config(config::Args),
    /// Say what is on this box and what its configuration lacks, with the fix for each; exit code 1 if something is missing
    Doctor(doctor::Args),
    /// List, show, verify, build and prepare models
    Models(models::Args),
    /// Serve a video file as an RTSP camera, to try a configuration without one
    Simulate(simulate::Args),
    /// Print a shell's completions, for example `source <(ocelli completions bash)`
    Completions(completions::Args),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(man::Args),
    /// Open an ONNX Runtime library in a process of its own and say whether it works
    #[command(hide = true)]
    ProbeRuntime(probe::Args),
    /// Look at GStreamer, or at one camera, in a process of its own
    #[command(hide = true)]
    ProbeMedia(doctor::ProbeArgs),
}

/// How a verb failed: the message for people and the exit code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1 error, 2 usage, 69 unavailable, 70 GPU fault, 78 configuration.
    pub(crate) code: u8,
    /// `None` when everything has been said already.
    pub(crate) error: Option<anyhow::Error>,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    /// Only an exit code.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, error: None }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(1, error)
    }
}

/// Parses the command line, runs the verb, prints the error if there is one.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Detect(args) => detect::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Config(args) => config::run(args),
        Verb::Models(args) => models::run(args),
        Verb::Simulate(args) => simulate::run(args),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::ProbeRuntime(args) => probe::run(args),
        Verb::ProbeMedia(args) => doctor::probe(args),
    };
    let code = match outcome {
        Ok(()) => 0,
        Err(failure) => {
            if let Some(error) = &failure.error {
                eprint_error(error);
            }
            failure.code
        }
    };
    if infer::hung_threads() > 0 || crate::cancel::left_behind() {
        // An ordinary exit tears down what the hanging thread still uses, and would crash or hang with it.
        let _ = std::io::stdout().flush();
        signal_hook::low_level::exit(code.into());
    }
    ExitCode::from(code)
}

#[allow(clippy::print_stderr)] // the one place where errors reach the terminal
fn eprint_error(error: &anyhow::Error) {
    eprintln!("ocelli: error: {error:#}");
}
