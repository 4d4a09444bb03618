//! Which provider really ran which node: read back from the profile that ONNX Runtime writes of the first inference.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

/// Largest profile that is read. A graph of a thousand nodes gives about a megabyte.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What the profile says of one event.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    provider: Option<String>,
}

/// Where a profile goes. The runtime adds a time and `.json`.
pub(in crate::infer) fn file_prefix() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ocelli-profile-{}-{next}", std::process::id()))
}

/// Reads the profile and removes it.
pub(in crate::infer) fn take(file: impl AsRef<Path>) -> Result<BTreeMap<String, usize>, String> {
    let file = file.as_ref();
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|profile| profile.take(LARGEST).read_to_string(&mut text));
    let _ = std::fs::remove_file(file);
    read.map_err(|error| format!("the profile {} cannot be read ({error})", file.display()))?;
    count(&text).map_err(|error| format!("the profile {} is damaged ({error})", file.display()))
}

/// Nodes by provider. Older versions write three events per node (a fence before and after); the kernel's is the one.
fn count(profile: &str) -> Result<BTreeMap<String, usize>, serde_json::Error> {
    let events: Vec<Event> = serde_json::from_str(profile)?;
    let mut nodes = BTreeMap::new();
    for Event { name, args } in events {
        if let Some(provider) = args.provider.filter(|provider| !provider.is_empty() && name.ends_with("_kernel_time"))
        {
            *nodes.entry(provider).or_default() += 1;
        }
    }
    Ok(nodes)
}

/// `TensorrtExecutionProvider 1, CPUExecutionProvider 3`.
pub(in crate::infer) fn words(nodes: &BTreeMap<String, usize>) -> String {
    nodes.iter().map(|(provider, count)| format!("{provider} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nodes_are_counted_once_by_provider() {
        let profile = r#"[
            {"cat":"Session","name":"model_loading_uri","args":{}},
            {"cat":"Node","name":"Conv_0_fence_before","args":{"op_name":"Conv"}},
            {"cat":"Node","name":"Conv_0_kernel_time","args":{"op_name":"Conv","provider":"CUDAExecutionProvider"}},
            {"cat":"Node","name":"Conv_1_kernel_time","args":{"op_name":"Conv","provider":"CUDAExecutionProvider"}},
            {"cat":"Node","name":"NMS_kernel_time","args":{"op_name":"NMS","provider" : "CPUExecutionProvider"}},
            {"cat":"Session","name":"SequentialExecutor::Execute","args":{}}
        ]"#;
        let nodes = count(profile).unwrap();
        assert_eq!(words(&nodes), "CPUExecutionProvider 1, CUDAExecutionProvider 2");
    }

    #[test]
    fn a_profile_that_is_cut_or_absent_is_an_error() {
        assert!(count(r#"[{"name":"a_kernel_time","args":{"provider":"CPU"#).is_err());
        assert!(take("/nowhere/profile.json").unwrap_err().contains("/nowhere/profile.json"));
    }
}
