//! `ocelli models`: list, show, build, prepare and verify models.

mod build;
mod prepare;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::options::ModelOptions;
use super::terminal::print;
use super::{Failure, exit};
use crate::infer;
use crate::model::{Manifest, ModelSpec, default_model, model_folders};
use crate::types::BackendInfo;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the models in a folder
    #[command(after_help = "Examples:\n  ocelli models list\n  ocelli models list /usr/share/ocelli/models --json")]
    List {
        /// Folder of model folders [default: ./models, then /usr/share/ocelli/models]
        dir: Option<PathBuf>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print a model's metadata; with --backend, also load it, run it once, and report which provider runs which part
    #[command(after_help = "Examples:\n  ocelli models show\n  ocelli models show yolo.onnx --backend cpu")]
    Show {
        /// An .onnx file or a model folder [default: the model that `run` and `detect` use]
        path: Option<PathBuf>,
        #[command(flatten)]
        options: ModelOptions,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Compare a model's file with its model.yaml, and a backend's detections with those of a reference; exit code 1 when
    /// they differ
    Verify(verify::Args),
    /// Build a model's GPU engine ahead of time, so that no start has to wait for it
    Build(build::Args),
    /// Rewrite a model for this machine: bytes as input, a fixed size, f16 weights, no unused outputs; both models are run,
    /// and the new one is written only if they agree
    Prepare(prepare::Args),
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut fit = true;
    let text = match args.verb {
        Verb::List { dir, json } => list(dir.as_deref(), json)?,
        Verb::Show { path, options, json } => {
            let spec = ModelSpec::open(&chosen(path)?, options.input_size)?;
            let loaded = options.backend.map(|_| infer::load(&spec, &options.config(None))).transpose();
            let info = loaded.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?.map(|(_, info)| info);
            if json { format!("{:#}\n", describe(&spec, info.as_ref())) } else { page(&spec, info.as_ref()) }
        }
        Verb::Verify(args) => {
            let (text, well) = verify::run(&args)?;
            fit = well;
            text
        }
        Verb::Prepare(args) => prepare::run(&args)?,
        Verb::Build(args) => return build::run(args),
    };
    print(&text)?;
    if fit { Ok(()) } else { Err(Failure::silent(exit::ERROR)) }
}

fn chosen(path: Option<PathBuf>) -> Result<PathBuf, Failure> {
    path.or_else(default_model).ok_or_else(|| {
        anyhow::anyhow!(
            "no model given, and none found in ./models or /usr/share/ocelli/models: give an .onnx file or a model \
             folder, or set OCELLI_MODEL"
        )
        .into()
    })
}

fn list(dir: Option<&Path>, json: bool) -> Result<String, Failure> {
    let folders = model_folders(dir)
        .with_context(|| format!("cannot list models in {}", dir.unwrap_or(Path::new("./models")).display()))?;
    let opened = folders.iter().map(|folder| (folder, ModelSpec::open(folder, None)));
    if json {
        let all: Vec<serde_json::Value> = opened
            .map(|(folder, result)| match result {
                Ok(spec) => describe(&spec, None),
                Err(e) => serde_json::json!({"path": folder, "code": e.code(), "error": e.to_string()}),
            })
            .collect();
        return Ok(format!("{:#}\n", serde_json::Value::from(all)));
    }
    if folders.is_empty() {
        let place = dir.map_or("./models or /usr/share/ocelli/models".into(), |d| d.display().to_string());
        return Ok(format!("no model folders (folders with a model.yaml) in {place}\n"));
    }
    let mut text = String::new();
    for (folder, result) in opened {
        text += &match result {
            Ok(spec) => format!(
                "{:<32} {:>9}  {:>4} classes  {}\n",
                spec.id.name,
                spec.input.size.to_string(),
                spec.output.classes,
                folder.display()
            ),
            // A broken model does not hide the others.
            Err(e) => format!("{:<32} broken: {e}\n", folder.file_name().unwrap_or_default().to_string_lossy()),
        };
    }
    Ok(text)
}

/// A model's metadata, for scripts.
fn describe(spec: &ModelSpec, info: Option<&BackendInfo>) -> serde_json::Value {
    let (manifest, input) = (spec.manifest.as_ref(), &spec.input);
    let mut page = serde_json::json!({
        "name": spec.id.name,
        "path": spec.path,
        "sha256": spec.id.sha256,
        "family": spec.output.family,
        "input": {
            "name": spec.input.name,
            "shape": input.shape(input.batch.size),
            "open_batch": input.batch.open,
            "type": input.elem,
            "dynamic": spec.dynamic,
            "color": spec.input.order,
            "scale": spec.input.scale,
            "pad": spec.input.padding,
            "pad_value": spec.input.pad_value,
        },
        "outputs": spec.output.tensors.iter().map(|tensor| serde_json::json!({
            "name": tensor.name,
            "shape": tensor.shape,
            "type": tensor.elem,
        })).collect::<Vec<_>>(),
        "rows": spec.output.rows,
        "strides": spec.strides,
        "anchors": spec.output.anchors,
        "classes": spec.output.classes,
        "labels": spec.id.labels,
        "license": manifest.and_then(|m| m.license.as_ref()),
        "source": manifest.and_then(|m| m.source.as_ref()),
        "accuracy": manifest.map(|m| &m.accuracy),
    });
    if let Some(BackendInfo { kind, version, fallbacks, nodes }) = info {
        page["backend"] = serde_json::json!({"kind": kind, "version": version, "fallbacks": fallbacks, "nodes": nodes});
    }
    page
}

/// The same as text.
fn page(spec: &ModelSpec, info: Option<&BackendInfo>) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| text += &format!("{key:<10} {value}\n");
    let input = &spec.input;
    line("name", spec.id.name.clone());
    line("file", spec.path.display().to_string());
    line("sha256", spec.id.sha256.clone());
    line("family", format!("{} ({})", spec.output.family.as_str(), spec.output.family.models()));
    let open = match (spec.dynamic, input.batch.open) {
        (_, true) => ", dynamic in the file, any batch",
        (true, false) => ", dynamic in the file",
        (false, false) => "",
    };
    line("input", format!("{} {} {:?}{open}", input.name, input.elem.as_str(), input.shape(input.batch.size)));
    line(
        "pixels",
        format!(
            "{:?}, divided by {}, {:?} letterbox of grey {}",
            input.order, input.scale, input.padding, input.pad_value
        )
        .to_lowercase(),
    );
    for tensor in &spec.output.tensors {
        line("output", format!("{} {} {:?}", tensor.name, tensor.elem.as_str(), tensor.shape));
    }
    match spec.strides.as_slice() {
        [] => line("rows", spec.output.rows.to_string()),
        strides => line("strides", format!("{strides:?}, {} rows", spec.output.rows)),
    }
    if !spec.output.anchors.is_empty() {
        let own = spec.manifest.as_ref().is_some_and(|m| m.anchors.is_some());
        line("anchors", format!("{:?}{}", spec.output.anchors, if own { "" } else { " (YOLOv5's usual ones)" }));
    }
    line("classes", spec.output.classes.to_string());
    line("labels", if spec.id.labels.is_empty() { "(none)".into() } else { spec.id.labels.join(", ") });
    if let Some(Manifest { license, source, accuracy, .. }) = &spec.manifest {
        line("license", license.clone().unwrap_or("(not said)".into()));
        line("source", source.clone().unwrap_or("(not said)".into()));
        let measures: Vec<String> = accuracy.iter().map(|(key, value)| format!("{key} {value}")).collect();
        line("accuracy", if measures.is_empty() { "(not said)".into() } else { measures.join(", ") });
    }
    if let Some(BackendInfo { kind, version, fallbacks, nodes }) = info {
        line("backend", format!("{kind} ({version})"));
        for (provider, count) in nodes {
            line("nodes", format!("{count} on {provider}"));
        }
        for why in fallbacks {
            line("not on", why.clone());
        }
    }
    text
}
