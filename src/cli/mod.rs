//! The command line: one file per verb. `anyhow` stops here.

mod completions;
mod config;
mod detect;
mod doctor;
mod eval;
mod man;
mod models;
mod options;
mod pictures;
mod probe;
mod run;
mod simulate;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::infer;
use crate::telemetry::log::{self, LogFormat};

/// Exit codes; 64 and above are those of sysexits(3).
mod exit {
    pub(super) const ERROR: u8 = 1;
    /// A wrong command line or environment.
    pub(super) const USAGE: u8 = 2;
    /// A service that is needed is not available: a backend, a port, a camera.
    pub(super) const UNAVAILABLE: u8 = 69;
    /// A GPU fault that only a new process gets rid of.
    pub(super) const GPU_FAULT: u8 = 70;
    /// The configuration is wrong.
    pub(super) const CONFIG: u8 = 78;
}

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
    /// Report what is on this machine and what its configuration lacks, with a fix for each; exit code 1 if something is missing
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
    /// Open a runtime's library in a process of its own and report whether it works
    #[command(hide = true)]
    ProbeRuntime(probe::Args),
    /// Look at GStreamer, or at one camera, in a process of its own
    #[command(hide = true)]
    ProbeMedia(doctor::ProbeArgs),
}

/// Why a verb failed: a message for the user and an exit code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One of [`exit`].
    pub(crate) code: u8,
    /// `None` when the output already has the reason.
    pub(crate) error: Option<anyhow::Error>,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    pub(crate) fn silent(code: u8) -> Self {
        Self { code, error: None }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(exit::ERROR, error)
    }
}

/// The log of verbs that a person runs: warnings only.
fn log_warnings() -> Result<(), Failure> {
    log::init("warn", LogFormat::Auto).map_err(|error| Failure::new(exit::USAGE, error))
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
        // An ordinary exit frees what the hanging thread still uses, and would crash or hang.
        infer::remove_profiles();
        let _ = std::io::stdout().flush();
        signal_hook::low_level::exit(code.into());
    }
    ExitCode::from(code)
}

#[allow(clippy::print_stderr)] // the one place where errors reach the terminal
fn eprint_error(error: &anyhow::Error) {
    eprintln!("ocelli: error: {error:#}");
}
