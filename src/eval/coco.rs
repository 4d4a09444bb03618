//! COCO's JSON: ground truth (`instances`) and detections (`results`).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::EvalError;
use super::average_precision::{Found, Rect, Truth};
use super::dataset::ClassMap;
use crate::types::Size;

/// One detection in COCO's results format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    pub image_id: i64,
    pub category_id: i64,
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    pub score: f64,
}

impl ResultRow {
    /// The detection as one of the model's `class`.
    pub fn to_found(&self, class: usize) -> Found {
        let [x, y, w, h] = self.bbox;
        Found { class, score: self.score, rect: Rect { x, y, w, h } }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CocoCategory {
    pub id: i64,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CocoTruth {
    /// Index of the categories.
    pub category: usize,
    pub rect: Rect,
    pub crowd: bool,
}

impl CocoTruth {
    /// `None`: the model does not have the class.
    pub fn to_truth(&self, map: &ClassMap) -> Option<Truth> {
        Some(Truth { class: map.model_class(self.category)?, rect: self.rect, crowd: self.crowd })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CocoImage {
    pub id: i64,
    /// Relative to a folder that the JSON does not name.
    pub file_name: String,
    pub size: Option<Size>,
    pub truths: Vec<CocoTruth>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CocoSet {
    /// In the order of their ids, in which COCOeval ranks equal scores.
    pub images: Vec<CocoImage>,
    /// In the order of their ids.
    pub categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct RawSet {
    images: Vec<RawImage>,
    annotations: Vec<RawAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct RawImage {
    id: i64,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct RawAnnotation {
    id: i64,
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

impl CocoSet {
    /// # Errors
    /// [`EvalError::File`], with line and column of malformed JSON, else with the id of the wrong entry.
    pub fn parse(text: &str, path: &str) -> Result<Self, EvalError> {
        let wrong = |message: String| EvalError::File { path: path.into(), message };
        let raw: RawSet = serde_json::from_str(text).map_err(|e| wrong(format!("not COCO ground truth: {e}")))?;
        let mut categories = raw.categories;
        categories.sort_by_key(|category| category.id);
        let index: HashMap<i64, usize> = categories.iter().enumerate().map(|(n, c)| (c.id, n)).collect();
        if index.len() < categories.len() {
            return Err(wrong("categories: two have the same id".into()));
        }
        let mut images = BTreeMap::new();
        for RawImage { id, file_name, width, height } in raw.images {
            let size = width.zip(height).map(|(w, h)| Size::new(w, h));
            if images.insert(id, CocoImage { id, file_name, size, truths: Vec::new() }).is_some() {
                return Err(wrong(format!("images: two have the id {id}")));
            }
        }
        for annotation in raw.annotations {
            let wrong = |key: &str, what: String| wrong(format!("annotations: id {}: {key}: {what}", annotation.id));
            let [x, y, w, h] = annotation.bbox;
            if w < 0.0 || h < 0.0 {
                return Err(wrong("bbox", format!("width {w} and height {h} must not be negative")));
            }
            let category = *index
                .get(&annotation.category_id)
                .ok_or_else(|| wrong("category_id", format!("no category {}", annotation.category_id)))?;
            let image = images
                .get_mut(&annotation.image_id)
                .ok_or_else(|| wrong("image_id", format!("no image {}", annotation.image_id)))?;
            image.truths.push(CocoTruth { category, rect: Rect { x, y, w, h }, crowd: annotation.iscrowd != 0 });
        }
        Ok(Self { images: images.into_values().collect(), categories })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const GOOD: &str = r#"{"info": {}, "images": [{"id": 9, "file_name": "b.jpg"},
        {"id": 4, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 7, "name": "car", "supercategory": "x"}, {"id": 3, "name": "bus"}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 14, "iscrowd": 1},
        {"id": 2, "image_id": 4, "category_id": 3, "bbox": [0, 0, 1, 1]}]}"#;

    #[test]
    fn pictures_and_categories_come_in_the_order_of_their_ids() {
        let set = CocoSet::parse(GOOD, "t.json").unwrap();
        let images: Vec<_> = set.images.iter().map(|i| (i.id, i.file_name.as_str(), i.truths.len())).collect();
        assert_eq!(images, [(4, "a.jpg", 2), (9, "b.jpg", 0)]);
        assert_eq!(set.images[0].size, Some(Size::new(64, 48)));
        assert_eq!(set.categories.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["bus", "car"]);
        let [crowd, plain] = set.images[0].truths[..] else { panic!() };
        assert_eq!((crowd.category, crowd.crowd, crowd.rect), (1, true, Rect { x: 1.0, y: 2.0, w: 3.5, h: 4.0 }));
        assert_eq!((plain.category, plain.crowd), (0, false));
    }

    #[test]
    fn errors_name_the_wrong_entry() {
        for (from, to, want) in [
            ("[1, 2, 3.5, 4]", "[1, 2, 3.5]", "line 4"),
            ("[1, 2, 3.5, 4]", "[1, 2, -3.5, 4]", "annotations: id 1: bbox"),
            ("[1, 2, 3.5, 4]", "[1, 2, NaN, 4]", "line 4"),
            (
                "\"image_id\": 4, \"category_id\": 3",
                "\"image_id\": 5, \"category_id\": 3",
                "id 2: image_id: no image 5",
            ),
            ("\"category_id\": 7", "\"category_id\": 8", "id 1: category_id: no category 8"),
            ("\"id\": 9", "\"id\": 4", "two have the id 4"),
            ("\"id\": 7", "\"id\": 3", "categories"),
            ("\"images\"", "\"pictures\"", "images"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = CocoSet::parse(&GOOD.replace(from, to), "t.json").unwrap_err().to_string();
            assert!(error.starts_with("t.json: ") && error.contains(want), "{to}: {error}");
        }
    }
}
