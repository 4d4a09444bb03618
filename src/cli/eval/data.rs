//! The data set on the disk: which pictures, which labels, which class is which.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::pictures::{EXTENSIONS, is_picture, list};
use crate::eval::{ClassMap, CocoSet, CocoTruth, FractionBox, Truth, parse_labels, parse_names};
use crate::model::ModelSpec;
use crate::types::Size;

/// A picture's objects; fractions become pixels once its size is known.
enum Labels {
    Fractions(Vec<FractionBox>),
    Pixels(Vec<CocoTruth>),
}

pub(super) struct Sample {
    pub(super) id: i64,
    pub(super) path: PathBuf,
    /// The size that the labels were made for.
    size: Option<Size>,
    labels: Labels,
}

impl Sample {
    /// Its objects; `size` is the picture's.
    pub(super) fn truths(&self, size: Size, map: &ClassMap) -> anyhow::Result<Vec<Truth>> {
        // Pixel boxes of another size would lower the scores without an error.
        if let Some(said) = self.size.filter(|said| *said != size) {
            anyhow::bail!("{}: the picture is {size}, but its labels are for {said}", self.path.display());
        }
        Ok(match &self.labels {
            Labels::Fractions(boxes) => boxes.iter().filter_map(|b| b.to_truth(size, map)).collect(),
            Labels::Pixels(truths) => truths.iter().filter_map(|t| t.to_truth(map)).collect(),
        })
    }

    fn classes(&self) -> Vec<usize> {
        match &self.labels {
            Labels::Fractions(boxes) => boxes.iter().map(|b| b.class).collect(),
            Labels::Pixels(truths) => truths.iter().filter(|t| !t.crowd).map(|t| t.category).collect(),
        }
    }
}

/// The pictures of one split and their labels.
pub(super) struct DataSet {
    pub(super) samples: Vec<Sample>,
    pub(super) map: ClassMap,
    /// `yolo` or `coco`.
    pub(super) format: &'static str,
    /// Pictures without a label file.
    pub(super) without_labels: usize,
    /// Objects of classes that the model does not know.
    pub(super) boxes_left_out: usize,
    /// By class of the data set.
    category_ids: Vec<i64>,
}

impl DataSet {
    /// Opens `data` (a folder or a COCO JSON) for a model; at most `limit` pictures.
    pub(super) fn open(data: &Path, split: &str, spec: &ModelSpec, limit: Option<usize>) -> anyhow::Result<Self> {
        let meta = std::fs::metadata(data).with_context(|| format!("{}: cannot open the data set", data.display()))?;
        let mut set = if !meta.is_dir() {
            let folder = data.parent().unwrap_or(Path::new(""));
            let root = if folder.ends_with("annotations") { folder.parent().unwrap_or(folder) } else { folder };
            coco(data, root, split, spec)?
        } else if data.join("labels").join(split).is_dir() {
            yolo(data, split, spec)?
        } else {
            let named = [format!("{split}.json"), format!("instances_{split}.json")];
            let json = named.iter().map(|name| data.join("annotations").join(name)).find(|path| path.is_file());
            coco(&json.ok_or_else(|| no_split(data, split))?, data, split, spec)?
        };
        set.samples.truncate(limit.unwrap_or(usize::MAX));
        let classes: Vec<usize> = set.samples.iter().flat_map(Sample::classes).collect();
        let known = classes.iter().filter(|class| set.map.model_class(**class).is_some()).count();
        set.boxes_left_out = classes.len() - known;
        anyhow::ensure!(
            known > 0,
            "{}: the {} pictures of the split `{split}` have no labelled object of a class that the model knows: \
             there is nothing to compare detections with",
            data.display(),
            set.samples.len()
        );
        Ok(set)
    }

    /// The category for one of the model's classes; `None` when the data set does not have it.
    pub(super) fn category_id(&self, class: usize) -> Option<i64> {
        self.category_ids.get(self.map.data_class(class)?).copied()
    }
}

fn no_split(data: &Path, split: &str) -> anyhow::Error {
    let entries = std::fs::read_dir(data.join("labels")).into_iter().flatten().flatten();
    let mut splits: Vec<String> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    splits.sort();
    let there = if splits.is_empty() { String::new() } else { format!("; there is labels/{{{}}}", splits.join(",")) };
    anyhow::anyhow!(
        "{}: no split `{split}`: neither the folder labels/{split} (YOLO) nor annotations/{split}.json or \
         annotations/instances_{split}.json (COCO) is there{there}",
        data.display()
    )
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// By name where both sides have names, else one to one, if there are as many.
fn class_map(names: &[String], spec: &ModelSpec, path: &Path) -> anyhow::Result<ClassMap> {
    let path = path.display().to_string();
    if !spec.id.labels.is_empty() {
        return Ok(ClassMap::by_name(names, &spec.id.labels, &path)?);
    }
    let (theirs, ours) = (names.len(), spec.output.classes);
    anyhow::ensure!(theirs == ours, "{path}: names: has {theirs} classes, but the model {ours}, and knows no names");
    Ok(ClassMap::by_index(ours))
}

fn yolo(root: &Path, split: &str, spec: &ModelSpec) -> anyhow::Result<DataSet> {
    let names = ["data.yaml", "data.yml"].map(|name| root.join(name)).into_iter().find(|path| path.is_file());
    let names = match names {
        Some(path) => parse_names(&read(&path)?, &path.display().to_string())?.map(|names| (path, names)),
        None => None,
    };
    let map = match names {
        Some((path, names)) => class_map(&names, spec, &path)?,
        None => ClassMap::by_index(spec.output.classes),
    };
    let (pictures, labels) = (root.join("images").join(split), root.join("labels").join(split));
    let files = list(&pictures, is_picture)?;
    anyhow::ensure!(!files.is_empty(), "{}: the folder holds no picture ({})", pictures.display(), known_endings());
    let label_files = list(&labels, |path| path.extension().is_some_and(|ext| ext == "txt"))?;
    let stems: std::collections::HashSet<_> = files.iter().filter_map(|path| path.file_stem()).collect();
    if let Some(orphan) = label_files.iter().find(|path| path.file_stem().is_none_or(|stem| !stems.contains(stem))) {
        let (orphan, pictures) = (orphan.display(), pictures.display());
        anyhow::bail!("{orphan}: its picture is missing: {pictures} has none of that name ({})", known_endings());
    }
    let mut without_labels = 0;
    let mut samples = Vec::with_capacity(files.len());
    for (n, path) in files.into_iter().enumerate() {
        let mut label = labels.join(path.file_stem().unwrap_or_default()).into_os_string();
        label.push(".txt");
        let label = PathBuf::from(label);
        let boxes = if label.exists() {
            parse_labels(&read(&label)?, &label.display().to_string(), map.classes())?
        } else {
            without_labels += 1;
            Vec::new()
        };
        samples.push(Sample { id: n as i64 + 1, path, size: None, labels: Labels::Fractions(boxes) });
    }
    let category_ids = (1..=map.classes() as i64).collect();
    Ok(DataSet { samples, map, format: "yolo", without_labels, boxes_left_out: 0, category_ids })
}

fn known_endings() -> String {
    EXTENSIONS.map(|ending| format!(".{ending}")).join(", ")
}

fn coco(json: &Path, root: &Path, split: &str, spec: &ModelSpec) -> anyhow::Result<DataSet> {
    let set = CocoSet::parse(&read(json)?, &json.display().to_string())?;
    let names: Vec<String> = set.categories.iter().map(|category| category.name.clone()).collect();
    let map = class_map(&names, spec, json)?;
    anyhow::ensure!(!set.images.is_empty(), "{}: images: there is none", json.display());
    // The file does not name the folder of its pictures; these are the usual ones.
    let places = [root.join("images").join(split), root.join(split), root.join("images"), root.to_owned()];
    let mut samples = Vec::with_capacity(set.images.len());
    for image in set.images {
        let path = places.iter().map(|place| place.join(&image.file_name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            let (json, name) = (json.display(), &image.file_name);
            anyhow::anyhow!("{json}: images: id {}: `{name}` is in none of {}", image.id, looked.join(", "))
        })?;
        samples.push(Sample { id: image.id, path, size: image.size, labels: Labels::Pixels(image.truths) });
    }
    let category_ids = set.categories.iter().map(|category| category.id).collect();
    Ok(DataSet { samples, map, format: "coco", without_labels: 0, boxes_left_out: 0, category_ids })
}
