//! Folders that the engine writes to.

use std::path::PathBuf;

/// Where GPU engines are kept when the configuration names no folder: `engines` in the service manager's
/// `CACHE_DIRECTORY`, else in the user's cache folder.
pub(in crate::infer) fn engine_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("engines"))
}

/// Where verdicts of probing children are kept: `probes` beside that.
pub(in crate::infer) fn probe_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("probes"))
}

fn cache_folder() -> Option<PathBuf> {
    let user =
        || given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache"))).map(|cache| cache.join("ocelli"));
    given("CACHE_DIRECTORY").or_else(user)
}

/// The first absolute path in an environment variable, which may hold several with colons between.
fn given(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable)?;
    std::env::split_paths(&value).find(|path| path.is_absolute())
}
