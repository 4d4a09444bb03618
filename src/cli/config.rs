//! `ocelli config`: check, show or describe the configuration.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Failure;
use crate::config::{self, Loaded};

/// Exit code of a wrong configuration (`EX_CONFIG`).
const WRONG_CONFIG: u8 = 78;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Report everything that is wrong; exit code 78 if there is anything
    #[command(after_help = "Examples:\n  ocelli config check\n  ocelli config check -c site.yaml -c cameras.yaml")]
    Check {
        #[command(flatten)]
        files: Files,
        /// Take any word for each `${NAME}` that is defined nowhere; the running service checks them when it reloads
        #[arg(long)]
        without_secrets: bool,
    },
    /// Print the merged configuration as YAML, secrets hidden
    #[command(
        after_help = "Examples:\n  ocelli config show --effective\n  ocelli config show -c ocelli.yaml --set node=gate"
    )]
    Show {
        #[command(flatten)]
        files: Files,
        /// Defaults and inherited values too
        #[arg(long)]
        effective: bool,
    },
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "Examples:\n  ocelli config schema\n  ocelli config schema --markdown")]
    Schema {
        /// The reference page in Markdown instead
        #[arg(long)]
        markdown: bool,
    },
}

/// Where the configuration comes from.
#[derive(Debug, clap::Args)]
struct Files {
    /// Configuration file; may be repeated, later files win [default: ./ocelli.yaml, else /etc/ocelli/ocelli.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Set one key, as `mqtt.url=mqtt://127.0.0.1:1883`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.verb {
        Verb::Check { files, without_secrets: false } => check(&load(&files)?),
        Verb::Check { files, without_secrets: true } => check(
            &config::load_without_secrets(&files.config, &files.sets)
                .map_err(|errors| Failure::new(WRONG_CONFIG, errors))?,
        ),
        Verb::Show { files, effective } => {
            let loaded = load(&files)?;
            print(&loaded.show(effective))
        }
        Verb::Schema { markdown: true } => print(&config::reference()),
        Verb::Schema { markdown: false } => print(&format!("{:#}\n", config::schema())),
    }
}

fn load(files: &Files) -> Result<Loaded, Failure> {
    config::load_all(&files.config, &files.sets).map_err(|errors| Failure::new(WRONG_CONFIG, errors))
}

fn check(loaded: &Loaded) -> Result<(), Failure> {
    for warning in &loaded.warnings {
        eprint(&format!("warning: {warning}\n"));
    }
    let names: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let names = if names.is_empty() { "(no file)".to_owned() } else { names.join(" + ") };
    let cameras = match loaded.config.cameras.len() {
        1 => "1 camera".to_owned(),
        count => format!("{count} cameras"),
    };
    print(&format!("{names}: ok ({cameras})\n"))
}

fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader of a pipe may leave when it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome.context("cannot write to standard output")?),
    }
}

#[allow(clippy::print_stderr)] // warnings are for the person at the terminal; no log runs here
fn eprint(text: &str) {
    eprint!("{text}");
}
