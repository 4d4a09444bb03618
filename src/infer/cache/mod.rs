//! The cache of GPU engines: a folder per engine, named by a hash of everything that the engine depends on.
//!
//! An engine is code that the GPU's runtime loads. So the folder belongs to this user alone, each file is compared with
//! the manifest before it is loaded, and an engine that does not match is moved aside (`<key>.rejected-<n>`).

pub(in crate::infer) mod atomic;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// After this many failed builds or rejected engines, an engine is not built again.
const ENOUGH: u32 = 2;
/// Folders of unfinished builds are removed after this time.
const STALE: Duration = Duration::from_secs(24 * 3600);
const MANIFEST: &str = "manifest.json";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    #[error("no folder for GPU engines: neither CACHE_DIRECTORY nor HOME is set; set model.cache")]
    NoFolder,
    /// Another user could put engines into it.
    #[error("{} is not used for GPU engines: {reason}; make it this user's own (chmod 700), or set model.cache", path.display())]
    Foreign { path: PathBuf, reason: String },
    #[error("GPU engines cannot be kept in {}: {reason}", path.display())]
    Io { path: PathBuf, reason: String },
}

/// Everything that an engine depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineKey {
    /// SHA-256 of the `.onnx` file.
    pub model: String,
    /// `fp32`, `fp16`, `int8`, `int8+fp16`.
    pub precision: String,
    /// Input shape, `1x3x640x640`.
    pub shape: String,
    /// The provider's other options, as JSON.
    pub options: String,
    /// SHA-256 of the calibration table.
    pub calibration: Option<String>,
    /// Version of ONNX Runtime.
    pub runtime: String,
    /// File names of TensorRT, cuDNN and CUDA with their versions.
    pub libraries: Vec<String>,
    pub gpu: String,
}

impl EngineKey {
    /// 32 hexadecimal digits.
    pub fn hash(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        hex::encode(&Sha256::digest(text.as_bytes())[..16])
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    v: u32,
    key: EngineKey,
    build_seconds: f64,
    /// Size and SHA-256 by file name.
    files: BTreeMap<String, (u64, String)>,
}

/// The outcomes of the builds of one engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Builds that failed since the last one that worked or that a user requested.
    pub failed: u32,
    /// Engines that were built and later rejected, here or by the runtime.
    pub rejected: u32,
    /// Of the last failure or rejection.
    pub reason: Option<String>,
    /// Duration of the last build that worked.
    pub seconds: Option<u64>,
}

impl BuildRecord {
    /// Why the engine is not built again unless a user requests it.
    pub fn refusal(&self) -> Option<String> {
        let reason = self.reason.as_deref().unwrap_or("no reason is known");
        if self.failed >= ENOUGH {
            return Some(format!("its build failed {} times ({reason})", self.failed));
        }
        (self.rejected >= ENOUGH).then(|| format!("the engine did not fit {} times ({reason})", self.rejected))
    }
}

#[derive(Debug, Clone)]
pub struct EngineCache {
    folder: PathBuf,
    quota: u64,
}

impl EngineCache {
    /// Opens the cache in `folder`, which is made if it is missing. `quota`: bytes at most.
    pub fn open(folder: &Path, quota: u64) -> Result<Self, CacheError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        check_owner(folder).map_err(|reason| CacheError::Foreign { path: folder.to_owned(), reason })?;
        Ok(Self { folder: folder.to_owned(), quota })
    }

    /// The folder of the engine of `key`, if there is one. It is compared with its manifest file by file, and moved aside if
    /// it does not match.
    pub fn lookup(&self, key: &EngineKey) -> Result<Option<PathBuf>, CacheError> {
        let folder = self.entry(key);
        if std::fs::symlink_metadata(&folder).is_err() {
            return Ok(None);
        }
        if let Err(reason) = verify(&folder, key) {
            self.reject(key, &reason)?;
            return Ok(None);
        }
        // The time of the last use, for the quota.
        if let Ok(manifest) = std::fs::File::open(folder.join(MANIFEST)) {
            let _ = manifest.set_modified(SystemTime::now());
        }
        Ok(Some(folder))
    }

    /// Moves the engine of `key` aside because of `reason`, and counts that.
    pub fn reject(&self, key: &EngineKey, reason: &str) -> Result<(), CacheError> {
        let folder = self.entry(key);
        tracing::warn!("GPU engine {} is not used: {reason}; it is moved aside and built anew", folder.display());
        let aside = (0..1000)
            .map(|n| self.folder.join(format!("{}.rejected-{n}", key.hash())))
            .find(|aside| std::fs::symlink_metadata(aside).is_err())
            .unwrap_or_else(|| self.folder.join(format!("{}.rejected", key.hash())));
        std::fs::rename(&folder, &aside).map_err(io(&folder))?;
        let record = self.record(key);
        let rejected = record.rejected + 1;
        self.set_record(key, &BuildRecord { rejected, reason: Some(reason.to_owned()), ..record })
    }

    /// A folder for a build to write to.
    pub fn begin(&self, key: &EngineKey) -> Result<PathBuf, CacheError> {
        let folder = self.folder.join(format!(".new-{}-{}", key.hash(), std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(io(&folder))?;
        Ok(folder)
    }

    /// Makes the files in `built` the engine of `key`, as a whole: after a power cut it is there or it is not.
    pub fn commit(&self, key: &EngineKey, built: &Path, took: Duration) -> Result<PathBuf, CacheError> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(built).map_err(io(built))? {
            let path = entry.map_err(io(built))?.path();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(io(&path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, digest(&path).map_err(io(&path))?);
            std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
        }
        let manifest = Manifest { v: 1, key: key.clone(), build_seconds: took.as_secs_f64(), files };
        write_json(&built.join(MANIFEST), &manifest)?;
        let folder = self.entry(key);
        if let Err(error) = std::fs::rename(built, &folder) {
            // Another process may have been faster; its engine is as good.
            let _ = std::fs::remove_dir_all(built);
            if verify(&folder, key).is_err() {
                return Err(io(&folder)(error));
            }
        }
        atomic::sync_folder(&self.folder).map_err(io(&self.folder))?;
        self.set_record(key, &BuildRecord { failed: 0, seconds: Some(took.as_secs()), ..self.record(key) })?;
        self.shrink(&folder);
        Ok(folder)
    }

    /// The outcomes of the builds of `key`.
    pub fn record(&self, key: &EngineKey) -> BuildRecord {
        let text = atomic::read(&self.folder.join(format!("{}.json", key.hash())));
        text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Counts a failed build.
    pub fn failed(&self, key: &EngineKey, reason: &str) -> Result<(), CacheError> {
        let record = self.record(key);
        let failed = record.failed + 1;
        self.set_record(key, &BuildRecord { failed, reason: Some(reason.to_owned()), ..record })
    }

    /// Resets the counters: a user requests a build, or the engine works.
    pub fn reset(&self, key: &EngineKey) -> Result<(), CacheError> {
        let seconds = self.record(key).seconds;
        self.set_record(key, &BuildRecord { seconds, ..BuildRecord::default() })
    }

    /// Removes the folders of crashed builds: those of a process id, and those that are a day old.
    pub fn sweep(&self, of_process: Option<u32>) {
        let ending = of_process.map(|id| format!("-{id}"));
        for (path, name) in self.entries() {
            let old = || age(&path).is_some_and(|age| age >= STALE);
            if name.starts_with(".new-") && (ending.as_ref().is_some_and(|ending| name.ends_with(ending)) || old()) {
                let _ = std::fs::remove_dir_all(&path);
            }
        }
    }

    fn entry(&self, key: &EngineKey) -> PathBuf {
        self.folder.join(key.hash())
    }

    fn set_record(&self, key: &EngineKey, record: &BuildRecord) -> Result<(), CacheError> {
        write_json(&self.folder.join(format!("{}.json", key.hash())), record)
    }

    fn entries(&self) -> Vec<(PathBuf, String)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Removes engines until the quota holds: rejected ones first, then the least recently used, never `kept`.
    fn shrink(&self, kept: &Path) {
        let mut engines: Vec<(bool, SystemTime, u64, PathBuf)> = self
            .entries()
            .into_iter()
            .filter(|(path, name)| path.is_dir() && !name.starts_with('.'))
            .map(|(path, name)| {
                let used = std::fs::metadata(path.join(MANIFEST)).and_then(|meta| meta.modified());
                let rejected = name.contains(".rejected");
                (!rejected, used.unwrap_or(SystemTime::UNIX_EPOCH), folder_size(&path), path)
            })
            .collect();
        engines.sort();
        let mut total: u64 = engines.iter().map(|(_, _, size, _)| size).sum();
        for (_, _, size, path) in engines {
            if total <= self.quota {
                break;
            }
            if path != kept && std::fs::remove_dir_all(&path).is_ok() {
                tracing::info!("GPU engine {} is removed: the cache is full (model.cache_mb)", path.display());
                total -= size;
            }
        }
    }
}

/// Compares an engine's folder with its manifest.
fn verify(folder: &Path, key: &EngineKey) -> Result<(), String> {
    check_owner(folder)?;
    let text =
        atomic::read(&folder.join(MANIFEST)).map_err(|error| format!("its manifest cannot be read ({error})"))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| format!("its manifest is damaged ({error})"))?;
    if manifest.key != *key {
        return Err("its manifest is that of another engine".into());
    }
    let found = std::fs::read_dir(folder).map_err(|error| error.to_string())?.flatten();
    for entry in found {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST && !manifest.files.contains_key(&name) {
            return Err(format!("there is a file that was not built: {name}"));
        }
    }
    for (name, expected) in &manifest.files {
        let path = folder.join(name);
        check_owner(&path).map_err(|reason| format!("{name}: {reason}"))?;
        let got = digest(&path).map_err(|error| format!("{name}: {error}"))?;
        if got.0 != expected.0 {
            return Err(format!("{name} has {} bytes, {} were built: it is truncated or changed", got.0, expected.0));
        }
        if got != *expected {
            return Err(format!("{name} is not the file that was built"));
        }
    }
    Ok(())
}

/// Checks that a file or folder belongs to this user, that no other user can write it, and that it is no link.
pub(in crate::infer) fn check_owner(path: &Path) -> Result<(), String> {
    let meta = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let me = std::fs::metadata("/proc/self").map_err(|error| error.to_string())?.uid();
    if meta.is_symlink() {
        return Err("it is a symbolic link".into());
    }
    if meta.uid() != me {
        return Err(format!("it belongs to user {}, not to {me}", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("others may write to it (mode {:o})", meta.mode() & 0o7777));
    }
    Ok(())
}

/// Size and SHA-256 of a file.
pub(in crate::infer) fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let size = std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok((size, hex::encode(hash.finalize())))
}

fn folder_size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn age(path: &Path) -> Option<Duration> {
    std::fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CacheError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| io(path)(error.into()))?;
    atomic::write(path, text.as_bytes()).map_err(io(path))
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> CacheError {
    let path = path.to_owned();
    move |error| CacheError::Io { path: path.clone(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
