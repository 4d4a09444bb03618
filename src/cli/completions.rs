//! `ocelli completions`: a shell's completion script.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::terminal::print;
use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli completions bash
  ocelli completions zsh")]
pub(crate) struct Args {
    /// Shell to write the script for
    shell: Shell,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(), "ocelli", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}

/// The command line without its hidden verbs, which the generator for bash would offer.
fn visible() -> Command {
    let whole = Cli::command();
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("ocelli").version(env!("CARGO_PKG_VERSION")).subcommands(verbs)
}
