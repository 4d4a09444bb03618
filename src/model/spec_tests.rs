//! What is resolved from good models, and errors for bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::onnx::tests::tiny::{Tiny, bytes_field, varint_field};
use crate::types::{ModelId, Padding, Size};

/// A specification without a file.
pub(crate) fn spec(family: Family, size: Size, strides: &[u32], classes: usize) -> ModelSpec {
    let cells: u32 = strides.iter().map(|s| (size.w / s) * (size.h / s)).sum();
    let rows = match family.anchors() {
        0 => 300,
        anchors => anchors as usize * cells as usize,
    };
    ModelSpec {
        id: Arc::new(ModelId { name: "test".into(), sha256: String::new(), labels: Vec::new() }),
        path: "test.onnx".into(),
        input: InputSpec {
            name: "images".into(),
            size,
            elem: Elem::Float32,
            channels_last: false,
            order: ChannelOrder::Rgb,
            scale: 255.0,
            padding: Padding::Centered,
            pad_value: 114,
            size_input: None,
            batch: Batch::ONE,
        },
        output: OutputSpec::single("output0", family, rows, classes),
        strides: strides.to_vec(),
        dynamic: false,
        content_sha256: String::new(),
        manifest: None,
    }
}

const SQUARE: &[&str] = &["1", "3", "640", "640"];
const DYNAMIC: &[&str] = &["batch", "3", "height", "width"];

/// A folder with a `model.onnx` and optionally a manifest.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(bytes: &[u8], manifest: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.onnx"), bytes).unwrap();
        if let Some(text) = manifest {
            fs::write(folder.path().join(MANIFEST), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn onnx(&self) -> PathBuf {
        self.0.path().join("model.onnx")
    }
}

/// Opens a model's file; `manifest` without its `file:` line, empty for none.
fn open(model: &Tiny, manifest: &str, input_size: Option<Size>) -> Result<ModelSpec, ModelError> {
    let text = format!("file: model.onnx\n{manifest}");
    let folder = Folder::new(&model.bytes(), (!manifest.is_empty()).then_some(text.as_str()));
    ModelSpec::open(&folder.onnx(), input_size)
}

#[track_caller]
fn good(model: &Tiny, manifest: &str) -> ModelSpec {
    open(model, manifest, None).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn refused(result: Result<ModelSpec, ModelError>, parts: &[&str]) {
    let error = result.expect_err("this model must be refused");
    // As the command line prints it: with the cause appended.
    let error = format!("{:#}", anyhow::Error::new(error));
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
}

#[track_caller]
fn bad(model: &Tiny, manifest: &str, parts: &[&str]) {
    refused(open(model, manifest, None), parts);
}

/// With two labels in the metadata.
fn two(input: &[&str], output: &[&str]) -> Tiny {
    Tiny::new(input, &[output]).meta("names", "{0: 'person', 1: \"it's\"}")
}

#[test]
fn strides_follow_from_the_number_of_rows() {
    for (stride, size, rows, strides) in [
        ("32", "640", "25200", &[8_u32, 16, 32][..]),
        ("64", "640", "6300", &[16, 32, 64]),
        ("64", "640", "25500", &[8, 16, 32, 64]),
        ("32", "640", "102000", &[4, 8, 16, 32]),
        ("128", "640", "1575", &[32, 64, 128]),
        ("32", "416", "10647", &[8, 16, 32]),
    ] {
        let expected = |model: &ModelSpec| {
            assert_eq!(model.strides, strides);
            assert_eq!(model.output.rows.to_string(), rows);
            assert_eq!((model.output.classes, model.output.family), (2, Family::YoloV5));
            assert_eq!(model.input.size.w.to_string(), size);
            assert!(!model.dynamic);
        };
        let model = || two(&["1", "3", size, size], &["1", rows, "7"]);
        expected(&good(&model().meta("stride", stride), ""));
        expected(&good(&model().meta("stride", &format!("{stride}.0")), ""));
        expected(&good(&model(), "")); // by N alone
        expected(&good(&model(), &format!("strides: {strides:?}\n")));
        // With open rows: by the manifest, or by the parts that the last Concat joins.
        let open_rows = || two(&["1", "3", size, size], &["1", "n", "7"]).meta("stride", stride);
        expected(&good(&open_rows(), &format!("strides: {strides:?}\n")));
        expected(&good(&open_rows().concat(strides.len()), ""));
    }
    let list = two(SQUARE, &["1", "6300", "7"]).meta("stride", "[16, 32, 64]");
    assert_eq!(good(&list, "").strides, [16, 32, 64]);
}

#[test]
fn a_rectangular_input_has_its_own_number_of_cells() {
    let model = good(&two(&["1", "3", "384", "640"], &["1", "15120", "7"]).meta("stride", "32"), "");
    assert_eq!((model.input.size, model.output.rows), (Size::new(640, 384), 15120));
    assert_eq!(model.output.len(), 15120 * 7);
}

#[test]
fn dynamic_axes_use_the_configured_size_then_the_manifest_then_640() {
    let model = two(DYNAMIC, &["batch", "anchors", "columns"]).meta("stride", "32");
    let manifest = "input: {width: 416, height: 320}\n";
    let size = |manifest: &str, config: Option<Size>| {
        let spec = open(&model, manifest, config).unwrap();
        assert!(spec.dynamic);
        assert_eq!((spec.output.classes, spec.strides.as_slice()), (2, &[8, 16, 32][..]));
        assert_eq!(
            spec.output.rows as u32,
            spec.strides.iter().map(|s| spec.input.size.w / s * (spec.input.size.h / s) * 3).sum::<u32>()
        );
        spec.input.size
    };
    assert_eq!(size("", None), Size::new(640, 640));
    assert_eq!(size(manifest, None), Size::new(416, 320));
    assert_eq!(size(manifest, Some(Size::new(320, 192))), Size::new(320, 192));
    refused(open(&model, "", Some(Size::new(650, 320))), &["650x320", "32", "672x320"]);
    refused(open(&model, "", Some(Size::new(100_000, 320))), &["width 100000", "8192"]);
    refused(open(&model, "", Some(Size::new(320, 0))), &["height 0"]);
    let fixed_rows = two(DYNAMIC, &["batch", "25200", "7"]);
    refused(open(&fixed_rows, "", Some(Size::new(320, 320))), &["25200"]);
    // The shipped detector needs multiples of 64.
    refused(
        open(&two(DYNAMIC, &["b", "n", "c"]).meta("stride", "64"), "", Some(Size::new(416, 416))),
        &["416x416", "64", "448x448"],
    );
}

#[test]
fn a_batch_is_dynamic_fixed_or_one() {
    let spec = |input: &[&str], output: &[&str]| good(&two(input, output).meta("stride", "32"), "");
    let batch = |size, open| Batch { size, open };
    assert_eq!(spec(SQUARE, &["1", "25200", "7"]).input.batch, Batch::ONE);
    assert_eq!(spec(&["4", "3", "640", "640"], &["4", "25200", "7"]).input.batch, batch(4, false));
    assert_eq!(spec(DYNAMIC, &["batch", "anchors", "columns"]).input.batch, batch(1, true));
    // The exporter has fixed the batch of the output.
    let half_open = spec(DYNAMIC, &["1", "25200", "7"]);
    assert_eq!(half_open.input.batch, Batch::ONE);

    let mut open = spec(DYNAMIC, &["batch", "anchors", "columns"]);
    open.set_batch(Some(8)).unwrap();
    assert_eq!(open.input.batch, batch(8, true));
    open.set_batch(None).unwrap();
    assert_eq!(open.input.batch.size, 8);
    refused(open.set_batch(Some(65)).map(|()| open), &["65", "1 … 64"]);
    let mut fixed = spec(&["4", "3", "640", "640"], &["4", "25200", "7"]);
    fixed.set_batch(Some(4)).unwrap();
    refused(fixed.set_batch(Some(2)).map(|()| fixed), &["batch of 2", "takes 4 frame(s)", "dynamic batch"]);
}

#[test]
fn name_labels_and_input_come_from_the_manifest() {
    let folder = Folder::new(
        &Tiny::new(SQUARE, &[&["1", "25200", "7"]]).elem(10).bytes(),
        Some(
            "name: mine\nfile: model.onnx\nlabels: [a, b]\ninput: {color: bgr, scale: 1, pad: top_left, pad_value: 0}\n",
        ),
    );
    for path in [folder.path(), folder.onnx(), folder.path().join(MANIFEST)] {
        let model = ModelSpec::open(&path, None).unwrap();
        assert_eq!(
            (model.id.name.as_str(), model.id.labels.as_slice()),
            ("mine", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!((model.input.order, model.input.scale), (ChannelOrder::Bgr, 1.0));
        assert_eq!((model.input.padding, model.input.pad_value), (Padding::TopLeft, 0));
        assert!(model.input.elem == Elem::Float16 && model.output.tensors[0].elem == Elem::Float16);
        assert_eq!(model.id.sha256, file_sha256(&folder.onnx()).unwrap());
        assert_eq!(model.path, folder.onnx());
    }
}

#[test]
fn defaults_without_a_manifest() {
    let model = good(&Tiny::new(SQUARE, &[&["1", "25200", "85"]]), "");
    assert_eq!(model.id.name, "model");
    assert_eq!((model.input.order, model.input.scale), (ChannelOrder::Rgb, 255.0));
    assert_eq!((model.input.padding, model.input.pad_value, model.input.elem), (Padding::Centered, 114, Elem::Float32));
    assert_eq!((model.output.classes, model.id.labels.len()), (80, 0));
    assert_eq!(model.input.name, "images");
    assert_eq!(model.output.tensors[0].name, "output0");
}

#[test]
fn a_manifest_of_another_file_is_ignored() {
    let folder = Folder::new(&two(SQUARE, &["1", "25200", "7"]).bytes(), Some("file: other.onnx\nlabels: [x]\n"));
    assert_eq!(ModelSpec::open(&folder.onnx(), None).unwrap().id.labels, ["person", "it's"]);
    refused(ModelSpec::open(&folder.path(), None), &["other.onnx", "not in this folder"]);
    let broken = Folder::new(&two(SQUARE, &["1", "25200", "7"]).bytes(), Some("nonsense: [\n"));
    assert!(ModelSpec::open(&broken.onnx(), None).is_ok());
    refused(ModelSpec::open(&broken.path(), None), &["model.yaml"]);
}

#[test]
fn other_families() {
    let v8 = good(
        &Tiny::new(SQUARE, &[&["1", "6", "8400"]])
            .meta("names", "['a', 'b']")
            .meta("stride", "32")
            .meta("task", "detect"),
        "",
    );
    assert_eq!((v8.output.family, v8.output.rows, v8.output.classes), (Family::YoloV8, 8400, 2));
    assert_eq!((v8.input.order, v8.input.scale), (ChannelOrder::Rgb, 255.0));
    let yolox = Tiny::new(&["1", "3", "416", "416"], &[&["1", "3549", "85"]]);
    bad(&yolox, "", &["family: yolox", "[1, 3549, 85]"]);
    let yolox = good(&yolox, "family: yolox\n");
    assert_eq!((yolox.output.family, yolox.output.rows, yolox.output.classes), (Family::YoloX, 3549, 80));
    assert_eq!((yolox.input.order, yolox.input.scale, yolox.input.padding), (ChannelOrder::Bgr, 1.0, Padding::TopLeft));
    assert_eq!(yolox.strides, [8, 16, 32]);
    bad(
        &Tiny::new(SQUARE, &[&["1", "25200", "85"]]),
        "family: yolox\n",
        &["25200", "[8, 16, 32] gives 8400", "strides"],
    );
}

#[test]
fn raw_heads_beside_the_decoded_output_are_ignored() {
    let outputs: &[&[&str]] = &[&["1", "3", "80", "80", "7"], &["1", "25200", "7"], &["1", "3", "40", "40", "7"]];
    assert_eq!(good(&Tiny::new(SQUARE, outputs), "").output.tensors[0].name, "output1");
}

#[test]
fn unknown_layouts_say_what_was_seen_and_what_to_set() {
    let outputs = |dims: &[&str]| Tiny::new(SQUARE, &[dims]).meta("stride", "32");
    bad(&outputs(&["1", "777", "85"]), "", &["[1, 777, 85]", "640x640", "stride 32", "family", "model.yaml"]);
    bad(&outputs(&["1", "777", "85"]), "family: yolov5\n", &["777 rows", "[8, 16, 32] gives 25200"]);
    bad(&outputs(&["1", "777", "85"]), "family: yolov5\nstrides: [8, 32]\n", &["[8, 32] gives 20400"]);
    bad(&outputs(&["1", "3", "79", "79", "85"]), "", &["no stride", "[1, 3, 79, 79, 85]"]);
    bad(&outputs(&["1", "85", "22", "22"]), "", &["rank 3", "[1, 85, 22, 22]"]);
    bad(&outputs(&["1", "1000"]), "", &["rank 3"]);
    bad(&outputs(&["1", "300", "6"]), "", &["family: end_to_end", "family: rtdetr", "labels"]);
    bad(&Tiny::new(SQUARE, &[]), "", &["no output of rank 3"]);
    bad(&outputs(&["1", "25200", "85"]).elem(7), "", &["int64"]);
    bad(&two(SQUARE, &["1", "116", "8400"]).meta("task", "segment"), "", &["segment", "detect"]);
}

#[test]
fn wrong_class_counts_name_output_and_labels() {
    bad(&two(SQUARE, &["1", "25200", "85"]), "", &["85 columns", "80 classes", "metadata `names` names 2"]);
    bad(&Tiny::new(SQUARE, &[&["1", "25200", "85"]]), "labels: [a]\n", &["80 classes", "the manifest names 1"]);
    bad(&two(SQUARE, &["1", "84", "8400"]), "", &["84 columns", "80 classes", "names 2"]);
    bad(&Tiny::new(SQUARE, &[&["1", "25200", "columns"]]), "family: yolov5\n", &["labels"]);
    bad(&Tiny::new(SQUARE, &[&["1", "25200", "5"]]), "", &["0 classes"]);
    bad(&Tiny::new(SQUARE, &[&["1", "25200", "7"]]).meta("names", "{0: person}"), "", &["names", "byte 4"]);
}

#[test]
fn wrong_inputs() {
    let output: &[&str] = &["1", "25200", "7"];
    bad(&two(&["1", "640", "640", "4"], output), "", &["[1, 640, 640, 4]", "[1, height, width, 3]"]);
    bad(&two(&["1", "1", "640", "640"], output), "", &["3 channels"]);
    bad(&two(&["1", "3", "640"], output), "", &["rank", "[1, 3, height, width]"]);
    bad(&two(&["65", "3", "640", "640"], &["65", "25200", "7"]), "", &["batch is fixed at 65", "1 … 64"]);
    bad(&two(&["4", "3", "640", "640"], output), "", &["[1, 25200, 7]"]);
    bad(&two(SQUARE, output).elem(3), "", &["int8"]);
    let second = bytes_field(11, &bytes_field(1, b"shape"));
    bad(&two(SQUARE, output).extra_graph(second), "", &["one input", "2", "shape"]);
    refused(open(&two(SQUARE, output), "", Some(Size::new(320, 320))), &["input_size", "320", "fixes it at 640"]);
}

#[test]
fn contradictions_name_file_and_manifest() {
    let model = two(SQUARE, &["1", "25200", "7"]).meta("stride", "32");
    bad(&model, "labels: [person, car]\n", &["labels", "`it's` as number 1", "`car` as number 1", "model.yaml"]);
    bad(&model, "labels: [person]\n", &["labels", "2 classes", "1 classes"]);
    bad(&model, "strides: [16, 32, 64]\n", &["strides", "largest 32", "[16, 32, 64]"]);
    bad(&model, "input: {width: 320}\n", &["input size", "width 640", "width 320"]);
    bad(&model.meta("stride", "x"), "", &["stride", "`x`"]);
}

#[test]
fn sha256_is_compared() {
    let model = two(SQUARE, &["1", "25200", "7"]);
    let right = good(&model, "").id.sha256.clone();
    assert_eq!(right.len(), 64);
    assert!(good(&model, &format!("sha256: \"{}\"\n", right.to_uppercase())).check_sha256(&right).is_ok());
    let wrong = "0".repeat(64);
    bad(&model, &format!("sha256: \"{wrong}\"\n"), &["SHA-256", &right, &wrong, "model.yaml"]);
    let error = good(&model, "").check_sha256(&wrong).unwrap_err().to_string();
    assert!(error.contains("configuration") && error.contains(&right), "{error}");
}

#[test]
fn bad_files_give_clear_messages() {
    let folder = Folder::new(b"", None);
    refused(ModelSpec::open(&folder.path().join("none.onnx"), None), &["no model at", "none.onnx"]);
    refused(ModelSpec::open(&folder.onnx(), None), &["empty"]);
    refused(ModelSpec::open(&folder.path(), None), &["model.yaml", "model.onnx"]);
    let bare = tempfile::tempdir().unwrap();
    refused(ModelSpec::open(bare.path(), None), &["without a model.yaml", "without an .onnx"]);
    fs::write(folder.onnx(), "%PDF-1.4 something else entirely").unwrap();
    refused(ModelSpec::open(&folder.onnx(), None), &["not an ONNX model"]);
    let whole = two(SQUARE, &["1", "25200", "7"]).bytes();
    fs::write(folder.onnx(), &whole[..whole.len() / 2]).unwrap();
    refused(ModelSpec::open(&folder.onnx(), None), &["not an ONNX model", "past the end"]);
    refused(ModelSpec::open(std::path::Path::new("/dev/zero"), None), &["regular file"]);
    let tensor = [bytes_field(8, b"w1"), varint_field(14, 1)].concat();
    bad(&two(SQUARE, &["1", "25200", "7"]).extra_graph(bytes_field(5, &tensor)), "", &["`w1`", "another file"]);
}

#[test]
fn label_filters() {
    let model = good(&two(SQUARE, &["1", "25200", "7"]), "");
    assert_eq!(model.class_mask(&["it's".into()]).unwrap(), [false, true]);
    assert_eq!(model.class_mask(&[]).unwrap(), [false, false]);
    let error = model.class_mask(&["persn".into()]).unwrap_err().to_string();
    assert!(error.contains("persn") && error.contains("did you mean `person`"), "{error}");
    let unnamed = good(&Tiny::new(SQUARE, &[&["1", "25200", "7"]]), "");
    assert_eq!(unnamed.class_mask(&["class1".into()]).unwrap(), [false, true]);
    assert!(unnamed.class_mask(&["person".into()]).unwrap_err().to_string().contains("class0 … class1"));
}
