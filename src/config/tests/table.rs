//! The table of keys, and what is made of it.

use std::path::Path;

use super::super::read::Keys;
use super::super::section::{Key, Kind, Section, sections};
use super::super::{Config, reference, schema};
use super::load_with;

/// Every key of the table is read: a file that gives it its example differs from the file without.
#[test]
fn every_key_of_the_table_has_an_effect() {
    fn visit(section: &'static Section, path: &str, check: &mut dyn FnMut(&str, &Key)) {
        for key in section.keys() {
            let inner = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            check(&inner, key);
            match key.kind {
                Kind::Section(below) | Kind::Optional(below) => visit(below, &inner, check),
                Kind::Named(below) if key.name == "models" => visit(below, "models.other", check),
                Kind::Named(below) => {
                    visit(below, "cameras.gate", check);
                    visit(below, "cameras.clip", check);
                }
                _ => {}
            }
        }
    }
    let mut count = 0;
    visit(Config::SECTION, "", &mut |path, key| {
        let base = [
            "http=127.0.0.1:1",
            "jsonl=-",
            "mqtt.url=mqtts://h",
            "mqtt.username=u",
            "model.file=old.onnx",
            "models.other.file=other.onnx",
            "models.plates.file=plates.onnx",
            "cameras.gate.url=rtsp://x",
            "cameras.gate.username=u",
            "cameras.clip.file=old.mp4",
            "cameras.desk.usb=/dev/video1",
        ];
        let set = format!("{path}={}", key.example);
        let with = base.iter().copied().chain([set.as_str()]).collect::<Vec<_>>();
        let plain = load_with(&[], &base, &[]).unwrap_or_else(|errors| panic!("{errors}")).config;
        match load_with(&[], &with, &[]) {
            Ok(loaded) => assert!(loaded.config != plain || path == "version", "{set} changes nothing"),
            // One source cannot have the keys of the other kind, and no camera has both.
            Err(errors) => {
                assert!(path.starts_with("cameras."), "{set}: {errors}");
                assert!(
                    errors.problems().iter().all(|p| p.message().contains("no effect") || p.message().contains("both")),
                    "{set}: {errors}"
                );
                return;
            }
        }
        count += 1;
    });
    assert!(count > 50, "{count}");
}

#[test]
fn every_key_has_a_description_an_example_and_a_readable_default() {
    for section in sections(Config::SECTION) {
        for key in section.keys() {
            assert!(key.doc().ends_with('.') && !key.example.is_empty(), "{}.{}", section.name, key.name);
            if let (Some(default), Kind::Word(words)) = (key.default, key.kind) {
                assert!(words.contains(&default), "{}.{}", section.name, key.name);
            }
        }
    }
    // The text of every default can be read: each range below would hold zero, or no default at all.
    let mut shown = load_with(&[], &["cameras.gate=rtsp://h", "mqtt=mqtt://h", "http={}"], &[]).unwrap().show(true);
    shown.push_str(&load_with(&[], &["cameras.clip=a.mp4"], &[]).unwrap().show(true));
    for section in sections(Config::SECTION) {
        for key in section.keys().filter(|key| key.default.is_some() && !["min", "format"].contains(&key.name)) {
            assert!(shown.contains(&format!("{}: ", key.name)), "{}.{}\n{shown}", section.name, key.name);
        }
    }
}

#[test]
fn the_committed_schema_and_reference_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for (file, text) in [("schema.json", format!("{:#}\n", schema())), ("README.md", reference())] {
        if std::env::var_os("OCELLI_BLESS").is_some() {
            std::fs::write(folder.join(file), &text).unwrap();
        }
        let committed = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert!(
            committed == text,
            "configs/{file} is old: run `ocelli config schema > configs/schema.json` and `ocelli config schema --markdown > configs/README.md`"
        );
    }
}
