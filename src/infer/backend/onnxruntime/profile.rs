//! Which provider ran which node, read from the profile that ONNX Runtime writes of the first inference.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use serde::Deserialize;
use tempfile::TempDir;

/// Largest profile that is read, bytes. A graph of a thousand nodes gives about a megabyte.
const LARGEST: u64 = 64 * 1024 * 1024;

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

/// Folders of profiles, for an exit that leaves threads behind.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the profiles of sessions that are still being loaded, before the process exits and leaves their threads behind.
pub fn remove_profiles() {
    for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// The profile of a session, in a folder of its own that is removed with it.
pub(in crate::infer) struct Profile {
    _folder: TempDir,
}

impl Profile {
    /// Makes the session to be built write a profile. If no folder can be made for it, none is written, and which provider
    /// runs which node stays unknown.
    pub(in crate::infer) fn start(builder: SessionBuilder) -> (SessionBuilder, Option<Self>) {
        // Other users may write to the folder for temporary files, so the path must not be known in advance.
        let private = std::fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix("ocelli-profile-").permissions(private).tempdir();
        let (builder, reason) = match made {
            Ok(folder) => match builder.with_profiling(folder.path().join("profile")) {
                Ok(builder) => {
                    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
                    folders.retain(|folder| folder.exists());
                    folders.push(folder.path().to_owned());
                    return (builder, Some(Self { _folder: folder }));
                }
                Err(error) => {
                    let reason = error.to_string();
                    (error.recover(), reason)
                }
            },
            Err(error) => (builder, error.to_string()),
        };
        static LOGGED: Once = Once::new();
        LOGGED.call_once(|| tracing::warn!("which provider runs which node stays unknown: no profile ({reason})"));
        (builder, None)
    }

    /// Ends profiling. Returns how many nodes each provider ran.
    pub(in crate::infer) fn read(self, session: &mut Session) -> Result<BTreeMap<String, usize>, String> {
        let path = session.end_profiling().map_err(|error| error.to_string())?;
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
        read.map_err(|error| format!("the profile {path} cannot be read ({error})"))?;
        count(&text).map_err(|error| format!("the profile is damaged ({error})"))
    }
}

/// Nodes by provider. Older versions write three events per node; only the kernel's counts.
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
    fn a_truncated_profile_is_an_error() {
        assert!(count(r#"[{"name":"a_kernel_time","args":{"provider":"CPU"#).is_err());
    }
}
