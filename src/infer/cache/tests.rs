//! Tests of the cache of GPU engines.
#![allow(clippy::unwrap_used, clippy::type_complexity)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::infer::cache::{CacheError, EngineCache, EngineKey};

fn key(model: &str) -> EngineKey {
    EngineKey {
        model: model.into(),
        precision: "fp32".into(),
        shape: "1x3x64x64".into(),
        options: "{}".into(),
        calibration: None,
        runtime: "1.24.4".into(),
        libraries: vec!["libnvinfer.so.10.3.0".into()],
        gpu: "Orin".into(),
    }
}

fn cache(folder: &tempfile::TempDir) -> EngineCache {
    EngineCache::open(&folder.path().join("engines"), 1 << 20).unwrap()
}

fn build(cache: &EngineCache, key: &EngineKey, size: usize) -> PathBuf {
    let built = cache.begin(key).unwrap();
    std::fs::write(built.join("model.engine"), vec![7; size]).unwrap();
    cache.commit(key, &built, Duration::from_secs(12)).unwrap()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn only_an_engine_with_the_same_key_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    assert_eq!(cache.lookup(&key("a")).unwrap(), None);
    let folder = build(&cache, &key("a"), 1000);
    assert_eq!(cache.lookup(&key("a")).unwrap(), Some(folder));
    assert_eq!(cache.record(&key("a")).seconds, Some(12));
    let others: [fn(&mut EngineKey); 8] = [
        |key| key.model = "b".into(),
        |key| key.precision = "fp16".into(),
        |key| key.shape = "1x3x32x32".into(),
        |key| key.options = "{\"builder_level\":5}".into(),
        |key| key.calibration = Some("c".into()),
        |key| key.runtime = "1.25.0".into(),
        |key| key.libraries = vec!["libnvinfer.so.10.4.0".into()],
        |key| key.gpu = "Thor".into(),
    ];
    for change in others {
        let mut other = key("a");
        change(&mut other);
        assert_eq!(cache.lookup(&other).unwrap(), None, "{other:?}");
    }
}

#[test]
fn what_does_not_fit_is_moved_aside_and_built_once_more() {
    let changes: [(&str, fn(&Path)); 7] = [
        ("truncated", |folder| std::fs::write(folder.join("model.engine"), [7; 10]).unwrap()),
        ("not the file", |folder| std::fs::write(folder.join("model.engine"), vec![8; 1000]).unwrap()),
        ("model.engine", |folder| std::fs::remove_file(folder.join("model.engine")).unwrap()),
        ("was not built", |folder| std::fs::write(folder.join("more.engine"), "x").unwrap()),
        ("manifest is damaged", |folder| std::fs::write(folder.join("manifest.json"), "{").unwrap()),
        ("others may write", |folder| mode(&folder.join("model.engine"), 0o666)),
        ("others may write", |folder| mode(folder, 0o777)),
    ];
    for (words, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir);
        for round in 1..=2 {
            assert_eq!(cache.record(&key("a")).refusal(), None);
            change(&build(&cache, &key("a"), 1000));
            assert_eq!(cache.lookup(&key("a")).unwrap(), None, "{words}: it was taken");
            let reason = cache.record(&key("a")).reason.unwrap();
            assert!(reason.contains(words), "{reason:?} does not say {words:?}");
            assert_eq!(cache.lookup(&key("a")).unwrap(), None);
            assert!(dir.path().join(format!("engines/{}.rejected-{}", key("a").hash(), round - 1)).exists());
        }
        assert!(cache.record(&key("a")).refusal().unwrap().contains("did not fit 2 times"));
        cache.reset(&key("a")).unwrap();
        assert_eq!(cache.record(&key("a")).refusal(), None);
    }
}

#[test]
fn a_renamed_engine_or_a_link_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let good = build(&cache, &key("a"), 10);
    std::fs::rename(&good, good.with_file_name(key("b").hash())).unwrap();
    assert_eq!(cache.lookup(&key("b")).unwrap(), None);
    let reason = cache.record(&key("b")).reason.unwrap();
    assert!(reason.contains("another engine"), "{reason}");
    let good = build(&cache, &key("a"), 10);
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(&good, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &good).unwrap();
    assert_eq!(cache.lookup(&key("a")).unwrap(), None);
    let reason = cache.record(&key("a")).reason.unwrap();
    assert!(reason.contains("symbolic link"), "{reason}");
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("engines");
    EngineCache::open(&folder, 1).unwrap();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    mode(&folder, 0o770);
    let error = EngineCache::open(&folder, 1).unwrap_err();
    assert!(matches!(&error, CacheError::Foreign { reason, .. } if reason.contains("others may write")), "{error}");
    assert!(matches!(EngineCache::open(Path::new("/proc/engines"), 1), Err(CacheError::Io { .. })));
}

#[test]
fn after_two_failures_an_engine_is_not_built_until_a_user_requests_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    cache.failed(&key("a"), "it crashed with SIGSEGV").unwrap();
    assert_eq!(cache.record(&key("a")).refusal(), None);
    cache.failed(&key("a"), "it crashed with SIGSEGV").unwrap();
    assert!(cache.record(&key("a")).refusal().unwrap().contains("SIGSEGV"));
    assert_eq!(cache.record(&key("b")).refusal(), None);
    build(&cache, &key("a"), 10);
    assert_eq!(cache.record(&key("a")).refusal(), None);
}

#[test]
fn the_quota_removes_rejected_engines_first_then_the_least_recently_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = EngineCache::open(dir.path(), 27_000).unwrap();
    let used = |folder: &Path, seconds: u64| {
        let manifest = std::fs::File::open(folder.join("manifest.json")).unwrap();
        manifest.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    let first = build(&cache, &key("first"), 8_000);
    used(&first, 300);
    let second = build(&cache, &key("second"), 8_000);
    used(&second, 200);
    cache.reject(&key("second"), "for this test").unwrap();
    let third = build(&cache, &key("third"), 8_000);
    used(&third, 100);
    let fourth = build(&cache, &key("fourth"), 8_000);
    let rejected = dir.path().join(format!("{}.rejected-0", key("second").hash()));
    assert_eq!([&rejected, &third, &first, &fourth].map(|path| path.exists()), [false, true, true, true]);
    // Third is the one that was not used for longest; the newest one stays even when it is too large alone.
    build(&cache, &key("fifth"), 30_000);
    assert_eq!([&third, &first, &fourth].map(|path| path.exists()), [false, false, false]);
    assert!(dir.path().join(key("fifth").hash()).exists());
}

#[test]
fn folders_of_crashed_builds_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = EngineCache::open(dir.path(), 1 << 20).unwrap();
    let mine = cache.begin(&key("a")).unwrap();
    let other = dir.path().join(".new-0123-1");
    std::fs::create_dir(&other).unwrap();
    cache.sweep(Some(std::process::id()));
    assert_eq!((mine.exists(), other.exists()), (false, true));
}
