//! `ocelli completions`: what a shell needs to complete the command line.

use std::io::Write;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(), "ocelli", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        // The reader of a pipe may leave when it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome.context("cannot write to standard output")?),
    }
}

/// The command line without its hidden verbs: the generator for bash would offer them.
fn visible() -> Command {
    let whole = Cli::command();
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("ocelli").version(env!("CARGO_PKG_VERSION")).subcommands(verbs)
}
