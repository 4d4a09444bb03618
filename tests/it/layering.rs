//! Which room may use which: the table of `ARCHITECTURE.md`, held against the `crate::` paths in `src/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod circles;

/// Rooms, and what each may use. `room::part` allows that part only. Change it together with `ARCHITECTURE.md`.
const EDGES: [(&str, &[&str]); 20] = [
    ("types", &[]),
    ("queue", &[]),
    ("telemetry", &["types"]),
    ("config", &["types"]),
    ("onnx", &[]),
    ("model", &["types", "onnx"]),
    ("preprocess", &["types", "model"]),
    ("cancel", &[]),
    ("ffi", &[]),
    ("frame", &["types"]),
    ("tract_conv", &[]),
    ("infer", &["types", "model", "config", "cancel", "ffi", "tract_conv"]),
    ("source", &["types", "config", "queue", "cancel", "frame", "telemetry"]),
    ("annotate", &["types"]),
    ("eval", &["types"]),
    ("sink", &["types", "config", "queue", "telemetry", "cancel", "frame", "annotate", "source::FrameTap"]),
    (
        "pipeline",
        &[
            "types",
            "config",
            "queue",
            "telemetry",
            "model",
            "preprocess",
            "infer",
            "cancel",
            "frame",
            "source",
            "annotate",
            "sink",
        ],
    ),
    ("doctor", &["types", "model", "config", "telemetry", "infer", "source", "sink"]),
    ("app", &["*"]),
    ("cli", &["*"]),
];

/// The core: no threads, sockets, clock reads, GStreamer. Time is an argument.
const PURE: [&str; 6] = ["types", "onnx", "model", "preprocess", "annotate", "eval"];
const IMPURE: [&str; 6] = ["std::thread", "std::net", "Instant::now", "SystemTime::now", "gstreamer", "std::process"];

/// Files of the core that read files: where a model is looked for and opened.
const OPENS_FILES: [&str; 4] = ["model/spec.rs", "model/file.rs", "onnx/external.rs", "model/places.rs"];

/// `tests.rs`, `testing.rs`, `matcher_tests.rs`, `tests/….rs`.
fn is_test_file(path: &Path) -> bool {
    if path.parent().is_some_and(|folder| folder.ends_with("tests")) {
        return true;
    }
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests") || stem == "testing")
}

/// The files of a room, tests (`mod tests` at the end of a file, `tests.rs`, `testing.rs`) left out.
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    fn walk(path: &Path, out: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), out);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path.to_owned());
        }
    }
    let mut paths = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|path| !is_test_file(path))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, without_tests_and_comments(&text))
        })
        .collect()
}

fn without_tests_and_comments(text: &str) -> String {
    let code = match text.find("#[cfg(test)]\nmod ") {
        Some(at) if text[at..].lines().nth(1).is_some_and(|line| line.ends_with('{')) => &text[..at],
        _ => text,
    };
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The `crate::room` and `crate::room::Item` paths of a text.
fn crate_paths(text: &str) -> BTreeSet<(String, Option<String>)> {
    let paths = paths_after(text, "crate::").into_iter().map(|(path, _)| path);
    paths.map(|path| (path[0].clone(), path.get(1).cloned())).collect()
}

/// The segments of a path, and the name that `as` gives it.
type Import = (Vec<String>, Option<String>);

/// All paths of a text that begin with `start` (a word and `::`), without it; groups (`{a, b::C}`) are expanded.
fn paths_after(text: &str, start: &str) -> Vec<Import> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices(start) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
            continue;
        }
        let rest = &text[at + start.len()..];
        let end = path_end(rest);
        // A name for a path without a group stands behind it.
        let alias = rest[end..].strip_prefix(" as ").map_or(0, |name| 4 + path_end(name));
        paths.extend(expand(&rest[..end + alias]));
    }
    paths
}

/// Where a path, with its group if there is one, ends.
fn path_end(text: &str) -> usize {
    let plain = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':' | '*'))).unwrap_or(text.len());
    if text[plain..].starts_with('{') { plain + group_end(&text[plain..]) } else { plain }
}

/// Length of the `{…}` at the start of `text`.
fn group_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The items of the `{a, b::{c, d}}` at the start of `text`.
fn split_group(text: &str) -> Vec<String> {
    let inner = &text[1..group_end(text).max(2) - 1];
    let (mut items, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(inner[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(inner[start..].trim().to_owned());
    items.into_iter().filter(|item| !item.is_empty()).collect()
}

/// `a::{b, c as d}` → `a::b`, and `a::c` named `d`.
fn expand(path: &str) -> Vec<Import> {
    if let Some(at) = path.find('{') {
        return split_group(&path[at..]).iter().flat_map(|item| expand(&format!("{}{item}", &path[..at]))).collect();
    }
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias.to_owned())));
    let segments = path.split("::").filter(|segment| !segment.is_empty() && *segment != "self");
    let segments: Vec<String> = segments.map(|segment| segment.trim().to_owned()).collect();
    if segments.is_empty() { Vec::new() } else { vec![(segments, alias)] }
}

fn allowed(from: &str, room: &str, item: Option<&str>) -> bool {
    let (_, edges) = EDGES.iter().find(|(name, _)| *name == from).unwrap();
    from == room
        || edges.iter().any(|edge| match edge.split_once("::") {
            Some((to, part)) => to == room && item == Some(part),
            None => *edge == "*" || *edge == room,
        })
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for (room, _) in EDGES {
        for (path, text) in sources(room) {
            for (to, item) in crate_paths(&text) {
                edges += 1;
                if !allowed(room, &to, item.as_deref()) {
                    let item = item.map(|item| format!("::{item}")).unwrap_or_default();
                    wrong.push(format!("{}: `{room}` uses `crate::{to}{item}`", path.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "new edges between rooms:\n{}\nIf an edge is right, add it to the table in ARCHITECTURE.md and to EDGES in tests/it/layering.rs, with the reason in the commit.",
        wrong.join("\n")
    );
    assert!(edges > 50, "only {edges} edges were seen: is the reader of paths broken?");
}

#[test]
fn every_room_is_in_the_table() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: BTreeSet<String> = std::fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let table: BTreeSet<String> = EDGES.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms, table, "rooms in src/ and in EDGES of tests/it/layering.rs differ");
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for room in PURE {
        for (path, text) in sources(room) {
            for (number, line) in text.lines().enumerate() {
                for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{}: `{word}` near line {}", path.display(), number + 1));
                }
            }
        }
    }
    for (path, text) in PURE.iter().flat_map(|room| sources(room)) {
        let opens = OPENS_FILES.iter().any(|file| path.ends_with(file));
        if !opens && (text.contains("std::fs") || text.contains("File::open")) {
            wrong.push(format!("{}: reads files", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "the core has no threads, sockets, files, clocks or GStreamer; time is an argument:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let rooms = EDGES.iter().filter(|(room, _)| *room != "ffi");
    let wrong: Vec<String> = rooms
        .flat_map(|(room, _)| sources(room))
        .filter(|(path, _)| !path.to_string_lossy().contains("src/tract_conv/kernel/"))
        .filter(|(_, text)| text.contains("allow(unsafe_code)") || text.contains("unsafe {"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(
        wrong.is_empty(),
        "`unsafe` belongs in src/ffi (foreign interfaces) or src/tract_conv/kernel (SIMD):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn paths_are_read_as_rust_reads_them() {
    let text = "use crate::types::{Size, frame::Frame};\nuse crate::{queue, config::{A, B as C}};\nlet x = crate::model::open();\nuse other_crate::no;\nuse crate::accel;";
    let found: Vec<String> = crate_paths(text)
        .into_iter()
        .map(|(room, item)| item.map_or(room.clone(), |item| format!("{room}::{item}")))
        .collect();
    assert_eq!(found, ["accel", "config::A", "config::B", "model::open", "queue", "types::Size", "types::frame"]);
}
