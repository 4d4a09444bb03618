//! `ocelli config`: check, show or describe the configuration.

use super::options::ConfigFiles;
use super::terminal::{plural, print};
use super::{Failure, exit};
use crate::config::{self, Loaded};

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
        files: ConfigFiles,
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
        files: ConfigFiles,
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

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let text = match args.verb {
        Verb::Check { files, without_secrets: false } => check(&load(&files)?),
        Verb::Check { files, without_secrets: true } => check(
            &config::load_without_secrets(&files.config, &files.set)
                .map_err(|errors| Failure::new(exit::CONFIG, errors))?,
        ),
        Verb::Show { files, effective } => load(&files)?.show(effective),
        Verb::Schema { markdown: true } => config::reference(),
        Verb::Schema { markdown: false } => format!("{:#}\n", config::schema()),
    };
    Ok(print(&text)?)
}

fn load(files: &ConfigFiles) -> Result<Loaded, Failure> {
    config::load_all(&files.config, &files.set).map_err(|errors| Failure::new(exit::CONFIG, errors))
}

fn check(loaded: &Loaded) -> String {
    for warning in &loaded.warnings {
        eprint(&format!("warning: {warning}\n"));
    }
    let names: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let names = if names.is_empty() { "(no file)".to_owned() } else { names.join(" + ") };
    format!("{names}: ok ({})\n", plural(loaded.config.cameras.len(), "camera"))
}

#[allow(clippy::print_stderr)] // warnings are for the person at the terminal; no log runs here
fn eprint(text: &str) {
    eprint!("{text}");
}
