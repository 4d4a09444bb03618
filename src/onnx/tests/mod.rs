//! Hostile files are refused with a reason and without a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::type_complexity)]

pub(crate) mod tiny;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;

use self::tiny::{Tiny, bytes_field, varint_field};
use super::*;
use crate::model::{MANIFEST, ModelError, ModelSpec};

const INPUT: &[&str] = &["1", "3", "640", "640"];

fn tiny() -> Tiny {
    Tiny::new(INPUT, &[&["1", "25200", "7"]])
}

/// Opens a model with `part` added to its graph, and a manifest.
fn open(part: Vec<u8>, manifest: &str, prepare: impl FnOnce(&Path)) -> Result<ModelSpec, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.onnx"), tiny().extra_graph(part).bytes()).unwrap();
    fs::write(folder.path().join(MANIFEST), format!("file: model.onnx\n{manifest}")).unwrap();
    prepare(folder.path());
    ModelSpec::open(folder.path(), None)
}

#[track_caller]
fn refused(part: Vec<u8>, code: &str, text: &str) {
    let error = open(part, "", |_| {}).expect_err("this must be refused");
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(text), "`{text}` is missing in: {error}");
}

/// TensorProto of floats.
fn tensor(dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|n| varint_field(1, *n as u64)).collect();
    [dims, varint_field(2, 1), bytes_field(8, b"w"), bytes_field(9, raw)].concat()
}

/// TensorProto of `n` floats in another file.
fn elsewhere(n: u64, entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| {
        bytes_field(13, &[bytes_field(1, key.as_bytes()), bytes_field(2, value.as_bytes())].concat())
    };
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    [varint_field(1, n), varint_field(2, 1), bytes_field(8, b"w"), entries, varint_field(14, 1)].concat()
}

fn attribute(field: u32, body: &[u8]) -> Vec<u8> {
    bytes_field(1, &bytes_field(5, &bytes_field(field, body)))
}

#[test]
fn external_data_is_found_wherever_it_hides() {
    let tensor = elsewhere(4, &[("location", "w.bin")]);
    let flag_only = [varint_field(2, 1), bytes_field(8, b"w"), varint_field(14, 1)].concat();
    let entries_only =
        [varint_field(2, 1), bytes_field(8, b"w"), bytes_field(13, &bytes_field(1, b"location"))].concat();
    let inner = bytes_field(5, &tensor);
    for part in [
        bytes_field(5, &tensor),
        bytes_field(5, &flag_only),
        bytes_field(5, &entries_only),
        bytes_field(15, &bytes_field(1, &tensor)),
        bytes_field(15, &bytes_field(2, &tensor)),
        attribute(5, &tensor),
        attribute(10, &tensor),
        attribute(6, &inner),
        attribute(11, &attribute(6, &inner)),
        attribute(22, &bytes_field(1, &tensor)),
        attribute(23, &bytes_field(2, &tensor)),
    ] {
        refused(part, "external_data", "`w` lies in another file");
    }
    let model = tiny().bytes();
    let function = bytes_field(25, &bytes_field(7, &bytes_field(5, &bytes_field(5, &tensor))));
    let training = bytes_field(20, &bytes_field(1, &bytes_field(5, &tensor)));
    for extra in [function, training] {
        let error = gate::inspect(&[model.clone(), extra].concat(), Policy::default()).unwrap_err();
        assert_eq!(error.code(), "external_data");
    }
}

const ALLOWED: &str = "allow_external_data: true\n";

#[test]
fn allowed_external_data_is_copied_in_wherever_it_is() {
    let data: Vec<u8> = (0..32).collect();
    let at = |n: &'static str| elsewhere(4, &[("location", "sub/w.bin"), ("offset", n), ("length", "16")]);
    let whole = elsewhere(8, &[("location", "sub/w.bin")]);
    for (part, wanted) in [
        (bytes_field(5, &at("0")), &data[..16]),
        (bytes_field(5, &at("16")), &data[16..]),
        (bytes_field(5, &whole), &data[..]),
        (attribute(6, &attribute(5, &at("8"))), &data[8..24]),
        (bytes_field(15, &bytes_field(1, &at("4"))), &data[4..20]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        fs::write(&file, tiny().extra_graph(part).bytes()).unwrap();
        fs::write(folder.path().join(MANIFEST), format!("file: model.onnx\n{ALLOWED}")).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/w.bin"), &data).unwrap();
        let spec = ModelSpec::open(folder.path(), None).unwrap_or_else(|e| panic!("{e}"));
        let bytes = spec.bytes().unwrap();
        assert!(bytes.windows(wanted.len()).any(|w| w == wanted));
        assert!(!bytes.windows(8).any(|w| w == b"location"));
        assert_ne!(spec.content_sha256, spec.id.sha256);
        // A change after the start is not loaded.
        fs::write(folder.path().join("sub/w.bin"), [9; 32]).unwrap();
        assert_eq!(spec.bytes().unwrap_err().code(), "sha256");
    }
}

/// Location, offset, part of the error, and what to put into the folder.
type Case<'a> = (&'a str, &'a str, &'a str, &'a dyn Fn(&Path));

#[test]
fn external_data_must_be_inside_the_folder() {
    let file = |folder: &Path| fs::write(folder.join("w.bin"), [0; 16]).unwrap();
    let cases: &[Case<'_>] = &[
        ("../w.bin", "0", "inside the model's folder", &file),
        ("sub/../../w.bin", "0", "inside the model's folder", &file),
        ("/etc/passwd", "0", "inside the model's folder", &|_| {}),
        ("/dev/zero", "0", "inside the model's folder", &|_| {}),
        ("", "0", "inside the model's folder", &file),
        ("none.bin", "0", "cannot be opened", &file),
        ("w.bin", "1", "more than the file has", &file),
        ("w.bin", "18446744073709551615", "more than the file has", &file),
        ("w.bin", "-1", "no length", &file),
        ("w.bin", "99999999999999999999", "no length", &file),
        ("link", "0", "symbolic link", &|folder| symlink("/etc/passwd", folder.join("link")).unwrap()),
        ("link", "0", "symbolic link", &|folder| symlink("/dev/zero", folder.join("link")).unwrap()),
        ("dir/passwd", "0", "symbolic link", &|folder| symlink("/etc", folder.join("dir")).unwrap()),
        ("hard", "0", "hard links", &|folder| {
            fs::write(folder.join("w.bin"), [0; 16]).unwrap();
            fs::hard_link(folder.join("w.bin"), folder.join("hard")).unwrap();
        }),
        ("sub", "0", "not a regular file", &|folder| fs::create_dir(folder.join("sub")).unwrap()),
        ("w.bin\0x", "0", "cannot be opened", &file),
    ];
    for (location, offset, text, prepare) in cases {
        let entries = [("location", *location), ("offset", *offset), ("length", "16")];
        let part = bytes_field(5, &elsewhere(4, &entries));
        let error = open(part, ALLOWED, prepare).expect_err("this must be refused");
        assert_eq!(error.code(), "external_reference", "{location}: {error}");
        assert!(error.to_string().contains(text), "{location}: `{text}` is missing in: {error}");
    }
    // Opening a pipe without a writer blocks.
    let pipe = |folder: &Path| {
        let made = std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap();
        assert!(made.success());
    };
    let part = bytes_field(5, &elsewhere(4, &[("location", "pipe")]));
    let error = open(part, ALLOWED, pipe).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn external_data_must_have_the_length_of_its_shape() {
    let file = |folder: &Path| fs::write(folder.join("w.bin"), [0; 16]).unwrap();
    let open = |n: u64, length: &str| {
        let entries = [("location", "w.bin"), ("length", length)];
        open(bytes_field(5, &elsewhere(n, &entries)), ALLOWED, file).unwrap_err()
    };
    assert!(open(4, "12").to_string().contains("shape needs 16"));
    assert!(open(4, "-16").to_string().contains("no length"));
    assert!(open(5, "20").to_string().contains("more than the file has"));
    // 2 GiB are refused before they are allocated.
    assert!(open(1 << 29, "2147483648").to_string().contains("limit"));
    assert_eq!(open(1 << 40, "4398046511104").code(), "tensor");
}

#[test]
fn impossible_tensor_shapes_are_refused() {
    refused(bytes_field(5, &tensor(&[1 << 40], &[])), "tensor", "more than 2147483648");
    refused(bytes_field(5, &tensor(&[1 << 20, 1 << 20, 1 << 20], &[0; 4])), "tensor", "more than");
    refused(bytes_field(5, &tensor(&[i64::MAX, 2], &[0; 4])), "tensor", "more than");
    refused(bytes_field(5, &tensor(&[-1], &[0; 4])), "tensor", "negative");
    refused(bytes_field(5, &tensor(&[4], &[0; 12])), "tensor", "holds 12 bytes, but its shape needs 16");
    refused(bytes_field(5, &tensor(&[1000], &[])), "tensor", "holds 0 bytes");
    refused(attribute(5, &tensor(&[1 << 40], &[])), "tensor", "more than");
    let packed = [bytes_field(1, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20]), varint_field(2, 1)].concat();
    refused(bytes_field(5, &packed), "tensor", "more than");
    let typed = [varint_field(1, 1000), varint_field(2, 1), bytes_field(4, &[0; 40])].concat();
    refused(bytes_field(5, &typed), "tensor", "shape needs 1000");
    let unknown = [varint_field(1, 1), varint_field(2, 99), bytes_field(9, &[0])].concat();
    refused(bytes_field(5, &unknown), "tensor", "unknown type 99");
    let sparse = [bytes_field(1, &tensor(&[1], &[0; 4])), varint_field(3, 1 << 40)].concat();
    refused(bytes_field(15, &sparse), "tensor", "sparse");
    let axes = tensor(&[1; 65], &[0; 4]);
    refused(bytes_field(5, &axes), "limit", "64 axes");
    let huge = Tiny::new(INPUT, &[&["1", "25200", "7"], &["1", "1099511627776"]]);
    let error = gate::inspect(&huge.bytes(), Policy::default()).unwrap_err();
    assert_eq!(error.code(), "tensor");
}

#[test]
fn foreign_operator_domains_are_refused_unless_allowed() {
    let node = |domain: &[u8]| bytes_field(1, &[bytes_field(4, b"Evil"), bytes_field(7, domain)].concat());
    refused(node(b"com.evil"), "domain", "`com.evil`");
    refused(attribute(6, &node(b"com.evil")), "domain", "allow_domains");
    assert!(open(node(b""), "", |_| {}).is_ok());
    assert!(open(node(b"ai.onnx"), "", |_| {}).is_ok());
    assert!(open(node(b"com.microsoft"), "allow_domains: [com.microsoft]\n", |_| {}).is_ok());
}

#[test]
fn too_many_entries_and_too_deep_graphs_are_refused() {
    let mut graph = Vec::new();
    for _ in 0..1000 {
        graph = attribute(6, &graph);
    }
    refused(graph, "limit", "levels of nested graphs");
    refused(bytes_field(1, &[]).repeat(100_001), "limit", "100000 nodes");
    refused(bytes_field(5, &varint_field(2, 1)).repeat(100_001), "tensor", "");
    let empty = [varint_field(1, 0), varint_field(2, 1)].concat();
    refused(bytes_field(5, &empty).repeat(100_001), "limit", "100000 tensors");
    refused(bytes_field(1, &varint_field(100, 0).repeat(8_000_000)), "limit", "fields");
}

#[test]
fn truncated_and_corrupted_models_never_panic() {
    let whole = tiny()
        .initializer("a", true)
        .extra_graph(attribute(6, &bytes_field(5, &tensor(&[2, 2], &[0; 16]))))
        .meta("names", "{0: 'a', 1: 'b'}")
        .bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, &whole).unwrap();
    assert!(ModelSpec::open(&path, None).is_ok());
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        // A cut between two fields may leave a valid model without metadata.
        if let Err(error) = ModelSpec::open(&path, None) {
            assert!(!error.code().is_empty());
        }
    }
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = gate::inspect(&bytes, Policy::default());
            let _ = external::inline(&bytes, folder.path());
        }
    }
}

#[test]
fn pipes_devices_and_oversized_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.onnx");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(ModelSpec::open(&path, None).unwrap_err().code(), "unreadable");
    assert_eq!(ModelSpec::open(Path::new("/dev/zero"), None).unwrap_err().code(), "unreadable");
    let long = folder.path().join("long.onnx");
    // A sparse file takes no disk space.
    fs::File::create(&long).unwrap().set_len((1 << 30) + 1).unwrap();
    assert_eq!(ModelSpec::open(&long, None).unwrap_err().code(), "too_large");
    fs::write(&long, b"").unwrap();
    assert_eq!(ModelSpec::open(&long, None).unwrap_err().code(), "empty");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = gate::inspect(&bytes, Policy { external_data: true, domains: &[] });
        let _ = external::inline(&bytes, Path::new("."));
    }
}
