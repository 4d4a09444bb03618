//! YOLO label files, and matching the classes of a data set with those of a model.

use serde::Deserialize;

use super::EvalError;
use super::average_precision::{Rect, Truth};
use crate::types::Size;

/// Labelling tools round: a box may exceed the picture by this fraction, and is cut to it.
const TOLERANCE: f64 = 1e-3;

/// The values of a label line, in order.
const KEYS: [&str; 5] = ["class", "x", "y", "width", "height"];

/// A line of a label file: centre, width and height as fractions of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FractionBox {
    pub class: usize,
    /// Of the centre.
    pub x: f64,
    /// Of the centre.
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl FractionBox {
    /// The object in a picture of `size`; `None`: the model does not have the class.
    pub fn to_truth(&self, size: Size, map: &ClassMap) -> Option<Truth> {
        let (w, h) = (f64::from(size.w), f64::from(size.h));
        let rect =
            Rect { x: (self.x - self.w / 2.0) * w, y: (self.y - self.h / 2.0) * h, w: self.w * w, h: self.h * h };
        Some(Truth { class: map.model_class(self.class)?, rect, crowd: false })
    }
}

/// Parses a label file: one object per line, `class x y width height`. Empty lines are skipped.
///
/// # Errors
/// [`EvalError::Line`] for the first malformed line, or one whose class is not below `classes`.
pub fn parse_labels(text: &str, path: &str, classes: usize) -> Result<Vec<FractionBox>, EvalError> {
    let mut boxes = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = parse_line(line, classes);
        boxes.push(parsed.map_err(|(key, message)| EvalError::Line {
            path: path.into(),
            line: number + 1,
            key,
            message,
        })?);
    }
    Ok(boxes)
}

fn parse_line(line: &str, classes: usize) -> Result<FractionBox, (&'static str, String)> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let mut values = [0.0; 5];
    for (n, (key, value)) in KEYS.into_iter().zip(&mut values).enumerate() {
        let Some(part) = parts.get(n) else {
            return Err((key, format!("is missing: a line needs 5 values, this one has {}", parts.len())));
        };
        *value = match part.parse::<f64>() {
            Ok(value) if value.is_finite() => value,
            _ => return Err((key, format!("`{part}` is not a number"))),
        };
    }
    if parts.len() > KEYS.len() {
        let message = format!("must be the last value, but the line has {} (outlines are not boxes)", parts.len());
        return Err(("height", message));
    }
    let [class, fractions @ ..] = values;
    // Some tools write `4.0`.
    if class.fract() != 0.0 || class < 0.0 || class >= classes as f64 {
        return Err(("class", format!("{} is no class of 0 … {}", parts[0], classes.saturating_sub(1))));
    }
    for (key, value) in KEYS[1..].iter().copied().zip(fractions) {
        if !(-TOLERANCE..=1.0 + TOLERANCE).contains(&value) {
            return Err((key, format!("{value} lies outside 0 … 1: values are fractions of the picture, not pixels")));
        }
    }
    let [x, y, w, h] = fractions.map(|value| value.clamp(0.0, 1.0));
    if w == 0.0 || h == 0.0 {
        return Err((if w == 0.0 { "width" } else { "height" }, "the box is empty".into()));
    }
    Ok(FractionBox { class: class as usize, x, y, w, h })
}

/// The only key of a `data.yaml` that is read.
#[derive(Deserialize)]
struct DataFile {
    names: Option<Names>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Map(std::collections::BTreeMap<usize, String>),
}

/// The class names of a `data.yaml`: a list, or a mapping from 0 on. `None`: it has no `names`.
///
/// # Errors
/// [`EvalError::File`] for malformed YAML or `names`, [`EvalError::Classes`] for a mapping with gaps.
pub fn parse_names(text: &str, path: &str) -> Result<Option<Vec<String>>, EvalError> {
    let file: DataFile =
        serde_yaml::from_str(text).map_err(|e| EvalError::File { path: path.into(), message: e.to_string() })?;
    match file.names {
        None => Ok(None),
        Some(Names::List(names)) => Ok(Some(names)),
        Some(Names::Map(names)) => {
            if let Some((want, _)) = names.keys().enumerate().find(|(want, is)| want != *is) {
                let message = format!("class {want} has no name: number the classes from 0 without a gap");
                return Err(EvalError::Classes { path: path.into(), message });
            }
            Ok(Some(names.into_values().collect()))
        }
    }
}

/// Which class of the model each class of the data set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassMap {
    to_model: Vec<Option<usize>>,
    left_out: Vec<String>,
}

impl ClassMap {
    /// For a data set without names: its classes are numbered like those of the model.
    pub fn by_index(classes: usize) -> Self {
        Self { to_model: (0..classes).map(Some).collect(), left_out: Vec::new() }
    }

    /// Matches `names` of the data set (from `path`) with the model's `labels`, exactly or else without regard to case. A
    /// class that the model does not have is left out.
    ///
    /// # Errors
    /// [`EvalError::Classes`] when no class matches.
    pub fn by_name(names: &[String], labels: &[String], path: &str) -> Result<Self, EvalError> {
        let find = |name: &String| {
            let exact = labels.iter().position(|label| label == name);
            exact.or_else(|| labels.iter().position(|label| label.trim().eq_ignore_ascii_case(name.trim())))
        };
        let to_model: Vec<Option<usize>> = names.iter().map(find).collect();
        if to_model.iter().all(Option::is_none) {
            let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let message = format!(
                "the model has none of them; the data set has {} ({} …), the model {} ({} …)",
                names.len(),
                first(names),
                labels.len(),
                first(labels)
            );
            return Err(EvalError::Classes { path: path.into(), message });
        }
        let unknown = names.iter().zip(&to_model).filter(|(_, model)| model.is_none());
        let left_out = unknown.map(|(name, _)| name.clone()).collect();
        Ok(Self { to_model, left_out })
    }

    /// Of the data set.
    pub fn classes(&self) -> usize {
        self.to_model.len()
    }

    /// The model's class for a class of the data set.
    pub fn model_class(&self, class: usize) -> Option<usize> {
        self.to_model.get(class).copied().flatten()
    }

    /// The first class of the data set that is the model's `class`.
    pub fn data_class(&self, class: usize) -> Option<usize> {
        self.to_model.iter().position(|model| *model == Some(class))
    }

    /// Names of the data set's classes that the model does not have.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_label_line_is_an_object() {
        let boxes = parse_labels("\u{feff}1 0.5 0.25 0.2 0.1\r\n\n0.0 1.0005 -0.0005 1 1\n", "a.txt", 2).unwrap();
        assert_eq!(boxes[0], FractionBox { class: 1, x: 0.5, y: 0.25, w: 0.2, h: 0.1 });
        assert_eq!(boxes[1], FractionBox { class: 0, x: 1.0, y: 0.0, w: 1.0, h: 1.0 }, "cut to the picture");
        let truth = boxes[0].to_truth(Size::new(100, 200), &ClassMap::by_index(2)).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(truth.rect.x, 40.0) && near(truth.rect.y, 40.0), "{truth:?}");
        assert!(near(truth.rect.w, 20.0) && near(truth.rect.h, 20.0), "{truth:?}");
        assert!(parse_labels("", "a.txt", 2).unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named_with_its_key() {
        for (line, want) in [
            ("0 0.5 0.5 0.1", "a.txt:2: height: is missing"),
            ("0", "a.txt:2: x: is missing"),
            ("0 0.5 0.5 0.1 0.1 0.9", "a.txt:2: height: must be the last"),
            ("car 0.5 0.5 0.1 0.1", "a.txt:2: class: `car`"),
            ("2 0.5 0.5 0.1 0.1", "a.txt:2: class: 2 is no class of 0 … 1"),
            ("-1 0.5 0.5 0.1 0.1", "a.txt:2: class: -1"),
            ("0.5 0.5 0.5 0.1 0.1", "a.txt:2: class: 0.5"),
            ("0 nan 0.5 0.1 0.1", "a.txt:2: x: `nan`"),
            ("0 0.5 inf 0.1 0.1", "a.txt:2: y: `inf`"),
            ("0 0.5 0.5 320 0.1", "a.txt:2: width: 320 lies outside"),
            ("0 0.5 0.5 0.1 1.002", "a.txt:2: height: 1.002 lies outside"),
            ("0 0.5 0.5 0 0.1", "a.txt:2: width: the box is empty"),
        ] {
            let error = parse_labels(&format!("0 0.5 0.5 0.1 0.1\n{line}\n"), "a.txt", 2).unwrap_err().to_string();
            assert!(error.starts_with(want), "{line}: {error}");
        }
    }

    #[test]
    fn names_are_a_list_or_a_mapping() {
        let both = Some(strings(&["bus", "car"]));
        assert_eq!(parse_names("train: x\nnc: 2\nnames: ['bus', 'car']\n", "d").unwrap(), both);
        assert_eq!(parse_names("names:\n  0: bus\n  1: car\n", "d").unwrap(), both);
        assert_eq!(parse_names("nc: 2\n", "d").unwrap(), None);
        assert!(parse_names("names: {0: bus, 2: car}\n", "d").unwrap_err().to_string().contains("class 1"));
        assert!(parse_names("names: 7\n", "d.yaml").unwrap_err().to_string().starts_with("d.yaml"));
    }

    #[test]
    fn classes_are_matched_by_name() {
        let labels = strings(&["bus", "car", "person"]);
        let map = ClassMap::by_name(&strings(&["Person", "bicycle", "bus"]), &labels, "d").unwrap();
        assert_eq!((0..4).map(|c| map.model_class(c)).collect::<Vec<_>>(), [Some(2), None, Some(0), None]);
        assert_eq!((0..3).map(|c| map.data_class(c)).collect::<Vec<_>>(), [Some(2), None, Some(0)]);
        assert_eq!(map.left_out(), ["bicycle"]);
        let error = ClassMap::by_name(&strings(&["cat"]), &labels, "d.yaml").unwrap_err().to_string();
        assert!(error.contains("d.yaml") && error.contains("cat") && error.contains("bus, car, person"), "{error}");
    }
}
