//! `ocelli man`: the manual pages, generated from the same declarations as `--help`. For packagers.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ocelli man man1\n  ocelli man /usr/share/man/man1")]
pub(crate) struct Args {
    /// Folder for `ocelli.1` and one page per verb; created if it does not exist
    folder: PathBuf,
}

/// The end of `ocelli.1`: files, environment and exit codes, which clap does not know.
const END: &str = r#".SH FILES
.TP
\fIocelli.yaml\fR, \fI/etc/ocelli/ocelli.yaml\fR
The configuration: the first that exists, unless \fB\-c\fR names one.
.TP
\fI/usr/share/ocelli/models\fR
Installed models. Folders in \fImodels\fR of the working directory come first.
.TP
\fI/usr/share/ocelli/schema.json\fR
JSON Schema of the configuration, for editors.
.TP
\fI/usr/share/doc/ocelli/examples\fR
Example configurations.
.SH ENVIRONMENT
.TP
\fBOCELLI__SECTION__KEY\fR
Sets one key of the configuration: \fBOCELLI__MQTT__URL\fR is \fImqtt.url\fR.
.TP
\fBOCELLI_MODEL\fR
The model when the configuration names none.
.TP
\fBOCELLI_LOG\fR
What is logged: \fBinfo\fR, \fBdebug\fR, or directives as \fBinfo,ocelli::source=trace\fR.
.TP
\fBORT_DYLIB_PATH\fR
The library of ONNX Runtime, \fIlibonnxruntime.so\fR.
.TP
\fBCREDENTIALS_DIRECTORY\fR
Set by systemd: where \fB${NAME}\fR in the configuration is looked for first.
.SH EXIT STATUS
.TP
\fB0\fR
Success.
.TP
\fB1\fR
An error.
.TP
\fB2\fR
A wrong command line.
.TP
\fB69\fR
A service that is needed is not available: a backend, a port.
.TP
\fB70\fR
A fault of the GPU that only a new process gets rid of.
.TP
\fB78\fR
A wrong configuration.
"#;

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let folder = args.folder.display();
    std::fs::create_dir_all(&args.folder).with_context(|| format!("cannot make the folder {folder}"))?;
    // A page for `help` would only repeat the others.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.folder).with_context(|| format!("cannot write to {folder}"))?;
    let first = args.folder.join("ocelli.1");
    let append = || std::fs::OpenOptions::new().append(true).open(&first)?.write_all(END.as_bytes());
    Ok(append().with_context(|| format!("cannot write to {}", first.display()))?)
}
