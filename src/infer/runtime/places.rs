//! Folders that outlive a restart.

use std::path::PathBuf;

/// `CACHE_DIRECTORY` of the service manager, else `ocelli` in the user's cache folder.
pub(in crate::infer) fn cache_folder() -> Option<PathBuf> {
    let user = || absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    absolute("CACHE_DIRECTORY").or_else(|| Some(user()?.join("ocelli")))
}

/// The first absolute path in an environment variable, which may hold several separated by colons.
fn absolute(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable)?;
    std::env::split_paths(&value).find(|path| path.is_absolute())
}
