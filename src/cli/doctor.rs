//! `ocelli doctor`: what is on this machine, and what is missing. `ocelli probe-media`: the child processes that it starts.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::Failure;
use super::options::ConfigFiles;
use super::terminal::print;
use crate::config::{self, ConfigErrors, DEFAULT_FILES, Loaded, Problem};
use crate::doctor::{self, DROPIN, Report, Request, Root, Scope};
use crate::source;

/// Greatest width of the report; also the width where that of the terminal is unknown.
const WIDTH: usize = 110;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli doctor -c ocelli.yaml
  ocelli doctor --write-device-dropin")]
pub(crate) struct Args {
    #[command(flatten)]
    files: ConfigFiles,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// Write the systemd drop-in that allows the service this machine's devices, and do nothing else; `-`: standard output
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = DROPIN,
        conflicts_with_all = ["json", "config", "set"]
    )]
    write_device_dropin: Option<PathBuf>,
    /// Read the files below this folder instead of `/`: a mounted image
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    root: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Connect to this camera instead of inspecting GStreamer
    #[arg(long)]
    camera: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let root = Root::new(args.root);
    if let Some(path) = args.write_device_dropin {
        return write_dropin(&root, &path);
    }
    let report = doctor::examine(&Request { root, scope: scope(&args.files), arguments: arguments(&args.files) });
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => render(&report),
    };
    print(&text)?;
    match report.ok {
        true => Ok(()),
        // The report has the reasons.
        false => Err(Failure::silent(1)),
    }
}

/// Prints one line of JSON: the findings, or the error.
pub(crate) fn probe(args: ProbeArgs) -> Result<(), Failure> {
    let line = match &args.camera {
        None => serde_json::to_string(&doctor::look_at_media())?,
        Some(name) => {
            let (files, sets) = (&args.files.config, &args.files.set);
            // A camera without a password can be probed while the passwords of others are not available.
            let Loaded { config, .. } =
                config::load_all(files, sets).or_else(|_| config::load_without_secrets(files, sets))?;
            let camera = config.cameras.iter().find(|camera| camera.name.as_ref() == name);
            let camera = camera.ok_or_else(|| anyhow!("no camera `{name}` in the configuration"))?;
            serde_json::to_string(&source::probe(camera).map_err(|error| error.to_string()))?
        }
    };
    Ok(print(&(line + "\n"))?)
}

/// An invalid configuration is a finding; the other checks still run.
fn scope(files: &ConfigFiles) -> Scope {
    let none = files.config.is_empty()
        && files.set.is_empty()
        && !DEFAULT_FILES.iter().any(|file| Path::new(file).exists())
        && !std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("OCELLI__"));
    if none {
        return Scope::default();
    }
    match config::load_all(&files.config, &files.set) {
        Ok(Loaded { config, warnings, files, .. }) => {
            let warnings = warnings.iter().map(headline).collect();
            Scope { config: Some(config), warnings, files, ..Scope::default() }
        }
        Err(errors) => match config::load_without_secrets(&files.config, &files.set) {
            Ok(Loaded { config, files, .. }) => {
                Scope { config: Some(config), secrets: secrets(&errors), files, ..Scope::default() }
            }
            Err(_) => Scope { errors: Some(message(&errors)), ..Scope::default() },
        },
    }
}

/// The first lines of all errors; `config check` shows them with their places.
fn message(errors: &ConfigErrors) -> String {
    errors.problems().iter().map(headline).collect::<Vec<_>>().join("; ")
}

/// The distinct names in the errors about `${NAME}`, which are the only errors here.
fn secrets(errors: &ConfigErrors) -> Vec<String> {
    let name = |problem: &Problem| Some(problem.message().split_once("${")?.1.split_once('}')?.0.to_owned());
    let mut names: Vec<String> = errors.problems().iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    names
}

/// `ocelli.yaml:3:1: unknown key …`, without the line of the file.
fn headline(problem: &Problem) -> String {
    problem.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The arguments with which a child process reads the same configuration.
fn arguments(files: &ConfigFiles) -> Vec<OsString> {
    let config = files.config.iter().flat_map(|file| ["--config".into(), file.into()]);
    let sets = files.set.iter().flat_map(|set| ["--set".into(), set.into()]);
    config.chain(sets).collect()
}

fn render(report: &Report) -> String {
    let terminal = std::io::stdout().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let width = given.or_else(seen).filter(|width| *width > 0).unwrap_or(WIDTH);
    doctor::render(report, width.min(WIDTH), colour)
}

fn write_dropin(root: &Root, path: &Path) -> Result<(), Failure> {
    let text = doctor::dropin(root);
    if path == Path::new("-") {
        return Ok(print(&text)?);
    }
    let path = if path == Path::new(DROPIN) { root.at(DROPIN) } else { path.to_owned() };
    doctor::write_dropin(&path, &text)
        .with_context(|| format!("cannot write {}; as root? `-` prints it instead", path.display()))?;
    Ok(print(&format!("{} written; now: systemctl daemon-reload && systemctl restart ocelli\n", path.display()))?)
}
