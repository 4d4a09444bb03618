//! Trying a library, or one execution provider of it, on a tiny model: what the probing child does.

use std::path::Path;

use ort::session::Session as Inner;
use ort::value::TensorRef;

use crate::infer::OrtProvider;
use crate::infer::backend::ort::placement;
use crate::infer::backend::ort::{OrtBackend, OrtOptions};
use crate::infer::runtime::ort_library::{chain, open};

/// A Relu of four values: enough to see a runtime load a graph and run it.
pub(in crate::infer) const TINY_MODEL: &[u8] = b"\x08\x08\x3a\x33\
    \x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\x12\x01g\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x04\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x04\
    \x42\x02\x10\x0d";

/// Opens `library` in this process, runs a tiny model, and gives the version. For the probing child only.
pub(in crate::infer) fn try_library(library: &Path) -> Result<String, String> {
    let environment = open(library)?;
    let mut session = Inner::builder(&environment)
        .and_then(|b| Ok(b.with_intra_threads(1)?))
        .and_then(|mut b| b.commit_from_memory(TINY_MODEL))
        .map_err(|error| format!("it cannot load a model ({})", chain(&error)))?;
    run(&mut session)?;
    Ok(version(library))
}

/// Registers `provider` as the service does, and runs a tiny model on it. For the probing child only.
pub(in crate::infer) fn try_provider(library: &Path, provider: OrtProvider) -> Result<String, String> {
    let version = version(library);
    let options = OrtOptions { threads: 1, ..OrtOptions::default() };
    let backend = OrtBackend::proven(provider, library.to_owned(), version.clone(), options);
    let mut builder = backend.builder(None).map_err(|error| error.to_string())?;
    let accelerated = provider != OrtProvider::Cpu;
    if accelerated {
        let refused = |error: ort::Error| chain(&error);
        builder = builder.with_profiling(placement::file_prefix()).map_err(|error| refused(error.into()))?;
    }
    let mut session = builder
        .commit_from_memory(TINY_MODEL)
        .map_err(|error| format!("it cannot load a model ({})", chain(&error)))?;
    run(&mut session)?;
    if accelerated {
        let nodes = session.end_profiling().map_err(|error| chain(&error)).and_then(placement::take)?;
        if !nodes.contains_key(provider.name()) {
            return Err("it registers, but the CPU ran the model in its place".into());
        }
    }
    Ok(version)
}

fn run(session: &mut Inner) -> Result<(), String> {
    let input = [-1.0_f32, 0.0, 1.0, 2.0];
    let outputs = TensorRef::from_array_view(([4_i64], input.as_slice()))
        .and_then(|tensor| session.run(ort::inputs![tensor]))
        .map_err(|error| format!("it cannot run a model ({})", chain(&error)))?;
    match outputs.get("y").map(|value| value.try_extract_tensor::<f32>()) {
        Some(Ok((_, [0.0, 0.0, 1.0, 2.0]))) => Ok(()),
        _ => Err("it runs a model, but the result is wrong".into()),
    }
}

/// The version that the library says of itself. The crate does not hand out ONNX Runtime's version string, but each
/// build carries it as the name of its symbol version, `VERS_1.24.4`; failing that, the file name has it.
fn version(library: &Path) -> String {
    let text = std::fs::read(library).ok().and_then(|bytes| {
        let at = bytes.windows(7).position(|window| window == b"VERS_1.")? + 5;
        version_at(bytes.get(at..at + 24)?)
    });
    let real = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let named = || real.to_string_lossy().split_once(".so.").and_then(|(_, v)| version_at(v.as_bytes()));
    text.or_else(named).unwrap_or_else(|| "of unknown version".into())
}

fn version_at(bytes: &[u8]) -> Option<String> {
    let length = bytes.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    std::str::from_utf8(&bytes[..length]).ok().filter(|v| !v.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_their_first_digits() {
        assert_eq!(version_at(b"1.24.4\0OrtGet"), Some("1.24.4".into()));
        assert_eq!(version_at(b"\0"), None);
    }
}
