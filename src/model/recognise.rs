//! Outputs that are not a single grid of boxes: recognised by their number, rank, type and names.

use super::anchors::usual_anchors;
use super::error::ModelError;
use super::facts::{Found, MAX_CLASSES, Query};
use super::family::Family;
use super::tensors::{Anchor, Elem, MAX_OUTPUTS, OutputSpec, TensorSpec};
use crate::onnx::{Dim, Port};

/// Rows of a family whose file leaves them open.
const USUAL_ROWS: u64 = 300;
/// Most rows of a family whose rows are not cells of a grid.
const MAX_QUERIES: u64 = 1000;

/// Recognises a family other than the single grids; `None`: it may be one of those.
pub(super) fn find(query: &Query<'_>) -> Result<Option<Found>, ModelError> {
    let family = match query.facts.family() {
        Some(Family::YoloV5 | Family::YoloV8 | Family::YoloX) => None,
        Some(family) => Some(family),
        None => query.family()?,
    };
    family.map(|family| query.found(family)).transpose()
}

fn axes(port: &Port) -> Vec<Option<u64>> {
    port.dims.iter().flatten().map(Dim::fixed).collect()
}

fn axis(port: &Port, n: usize) -> Option<u64> {
    axes(port).get(n).copied().flatten()
}

fn rank(port: &Port) -> usize {
    port.dims.as_ref().map_or(0, Vec::len)
}

fn last(port: &Port) -> Option<u64> {
    axes(port).last().copied().flatten()
}

fn is_integer(port: &Port) -> bool {
    matches!(Elem::from_onnx(port.elem), Some(Elem::Int32 | Elem::Int64))
}

impl<'a> Query<'a> {
    fn of_rank(&self, wanted: usize) -> Vec<&'a Port> {
        self.ports.iter().copied().filter(|port| rank(port) == wanted).collect()
    }

    fn fits(&self, family: Family, n: u64) -> bool {
        self.strides_for(family, n, 0).is_some()
    }

    fn family(&self) -> Result<Option<Family>, ModelError> {
        let (flat, boxes) = (self.of_rank(2), self.of_rank(3));
        match (flat.as_slice(), boxes.as_slice()) {
            (_, []) if !self.of_rank(5).is_empty() => Ok(Some(Family::YoloV5Heads)),
            ([one], []) if last(one) == Some(7) => Err(self.unknown(
                "its rows of seven numbers are boxes after NMS; write `family: nms_class_score` (YOLOv7's export: class, \
                 then score) or `family: nms_score_class` (YOLO-NAS': score, then class) into a model.yaml beside it",
            )),
            ([a, b], [boxes]) if last(boxes) == Some(4) && (is_integer(a) != is_integer(b)) => Ok(Some(Family::DetrBoxes)),
            ([], [a, b]) if last(a) == Some(4) || last(b) == Some(4) => self.pair(a, b).map(Some),
            ([], [one]) => self.single(one),
            _ => Ok(None),
        }
    }

    /// Boxes and scores in two outputs.
    fn pair(&self, a: &Port, b: &Port) -> Result<Family, ModelError> {
        let named = |part: &str| [a, b].iter().any(|port| port.name.to_lowercase().contains(part));
        let rows = axis(a, 1);
        if rows.is_some_and(|n| self.fits(Family::YoloNas, n)) {
            return Ok(Family::YoloNas);
        }
        if named("logits") && rows.is_none_or(|n| n <= MAX_QUERIES) {
            return Ok(Family::DetrLogits);
        }
        Err(self.unknown(
            "one output of boxes and one of scores; write `family: yolonas` (boxes as corners in pixels) or `family: \
             detr_logits` (centre and size as parts of the picture, scores before the sigmoid) into a model.yaml beside it",
        ))
    }

    /// One output of rank 3 that is not a grid.
    fn single(&self, port: &Port) -> Result<Option<Family>, ModelError> {
        let (rows, columns) = (axis(port, 1), axis(port, 2));
        let grid = |n: u64| self.fits(Family::YoloV5, n) || self.fits(Family::YoloX, n);
        if rows.is_some_and(|n| n > MAX_QUERIES || grid(n)) {
            return Ok(None);
        }
        let description = self.facts.info.meta("description").unwrap_or_default().to_uppercase();
        let (detr, yolo) =
            (description.contains("RTDETR") || description.contains("RT-DETR"), description.contains("YOLO"));
        let names = self.labels.map(|l| l.len() as u64);
        let as_detr = names.is_some_and(|n| columns == Some(4 + n));
        let ends = columns == Some(6);
        match (rows, names) {
            (Some(_), _) if as_detr && detr => Ok(Some(Family::RtDetr)),
            (Some(_), Some(2)) if ends && yolo => Ok(Some(Family::EndToEnd)),
            (Some(_), Some(2) | None) if ends => Err(self.unknown(
                "its rows of six numbers may be corners, score and class, or centre, size and the scores of two \
                 classes; write `family: end_to_end` or `family: rtdetr` (and `labels`) into a model.yaml beside it",
            )),
            // One class and open rows: that is YOLOv5's layout too, and the commoner one.
            (Some(_), _) if ends => Ok(Some(Family::EndToEnd)),
            (None, Some(n)) if ends && n > 2 => Ok(Some(Family::EndToEnd)),
            (Some(USUAL_ROWS), _) if as_detr => Ok(Some(Family::RtDetr)),
            _ => Ok(None),
        }
    }

    fn found(&self, family: Family) -> Result<Found, ModelError> {
        if family == Family::YoloV5Heads {
            return self.heads();
        }
        let ports = self.in_order(family)?;
        let columns = match family {
            Family::YoloNas => ports.get(1).and_then(|port| last(port)),
            Family::DetrLogits => ports.first().and_then(|port| last(port)),
            Family::RtDetr => ports.first().and_then(|port| last(port)).map(|n| n.saturating_sub(4)),
            _ => None,
        };
        let classes = self.classes(columns)?;
        let flat = matches!(family, Family::NmsClassScore | Family::NmsScoreClass);
        let fixed = ports.first().and_then(|port| axis(port, usize::from(!flat)));
        let rows = fixed.unwrap_or(USUAL_ROWS);
        let strides = if family == Family::YoloNas { self.strides_for(family, rows, 0) } else { None };
        let tensors =
            ports.iter().map(|port| self.tensor(port, fixed.is_some() && !flat, classes)).collect::<Result<_, _>>()?;
        let output = OutputSpec { family, rows: rows as usize, classes, tensors, anchors: Vec::new() };
        Ok(Found { output, strides: strides.unwrap_or_default() })
    }

    /// The outputs in the order in which the decoder reads them.
    fn in_order(&self, family: Family) -> Result<Vec<&'a Port>, ModelError> {
        let (flat, cubes) = (self.of_rank(2), self.of_rank(3));
        let wrong = |what: &str| self.unknown(format!("`family: {}` needs {what}", family.as_str()));
        let boxes = || -> Result<(&'a Port, &'a Port), ModelError> {
            let [a, b] = cubes.as_slice() else {
                return Err(wrong("two outputs of rank 3; list their names under `outputs` in the manifest"));
            };
            let is_box = |port: &Port| last(port) == Some(4);
            let listed = self.facts.manifest.is_some_and(|m| m.outputs.is_some());
            match (is_box(a), is_box(b)) {
                (true, false) => Ok((a, b)),
                (false, true) => Ok((b, a)),
                (true, true) if a.name.contains("box") != b.name.contains("box") => {
                    Ok(if a.name.contains("box") { (a, b) } else { (b, a) })
                }
                (true, true) if listed => Ok((a, b)),
                (true, true) => Err(wrong(
                    "to know which output holds the boxes (both have four columns): list boxes first, scores second \
                     under `outputs` in the manifest",
                )),
                (false, false) => Err(wrong("an output of boxes, [1, N, 4]")),
            }
        };
        match family {
            Family::YoloNas => boxes().map(|(boxes, scores)| vec![boxes, scores]),
            Family::DetrLogits => boxes().map(|(boxes, scores)| vec![scores, boxes]),
            Family::DetrBoxes => match (flat.as_slice(), cubes.as_slice()) {
                ([a, b], [boxes]) if is_integer(a) && !is_integer(b) => Ok(vec![a, boxes, b]),
                ([a, b], [boxes]) if is_integer(b) && !is_integer(a) => Ok(vec![b, boxes, a]),
                _ => Err(wrong("integer labels [1, N], boxes [1, N, 4] and scores [1, N]")),
            },
            Family::NmsClassScore | Family::NmsScoreClass => match flat.as_slice() {
                [one] if last(one) == Some(7) => Ok(vec![one]),
                _ => Err(wrong("one output [n, 7]")),
            },
            Family::EndToEnd => match cubes.as_slice() {
                [one] if last(one).is_none_or(|n| n == 6) => Ok(vec![one]),
                _ => Err(wrong("one output [1, N, 6]")),
            },
            _ => match cubes.as_slice() {
                [one] => Ok(vec![one]),
                _ => Err(wrong("one output [1, N, 4 + classes]")),
            },
        }
    }

    fn tensor(&self, port: &Port, fixed: bool, classes: usize) -> Result<TensorSpec, ModelError> {
        let elem = Elem::from_onnx(port.elem).filter(|elem| *elem != Elem::Uint8);
        let elem = elem.ok_or_else(|| {
            self.unknown(format!("output `{}` must be float32 or float16 (class numbers: int32 or int64)", port.name))
        })?;
        let axes = axes(port);
        let mut shape: Vec<usize> = axes.iter().map(|n| n.unwrap_or(classes as u64) as usize).collect();
        if fixed {
            if let Some(batch) = shape.first_mut() {
                *batch = 1;
            }
        } else {
            // The batch goes, and the rows are open.
            if shape.len() > 2 || axes.last().copied().flatten().is_none() {
                shape.remove(0);
            }
            if let Some(rows) = shape.first_mut() {
                *rows = 0;
            }
        }
        Ok(TensorSpec { name: port.name.clone(), shape, elem })
    }

    fn classes(&self, columns: Option<u64>) -> Result<usize, ModelError> {
        let named = self.labels.map(|l| l.len() as u64);
        let wrong = |reason: String| self.wrong_classes(reason);
        match (columns, named) {
            (Some(columns), Some(named)) if columns != named => {
                Err(wrong(format!("the output has the scores of {columns} classes, but {named} are named")))
            }
            (Some(n), _) | (None, Some(n)) if (1..=MAX_CLASSES).contains(&n) => Ok(n as usize),
            (None, None) => Err(wrong(
                "its output leaves it open and the file has no `names`: write `labels` into a model.yaml beside it"
                    .into(),
            )),
            (Some(n), _) | (None, Some(n)) => Err(wrong(format!("{n} classes; expected 1 … {}", MAX_CLASSES))),
        }
    }

    /// Raw heads: strides from their shapes, anchors from the manifest, else those of YOLOv5.
    fn heads(&self) -> Result<Found, ModelError> {
        let mut heads = self.of_rank(5);
        let count = heads.len();
        if !(1..=MAX_OUTPUTS).contains(&count) {
            return Err(self.unknown(format!(
                "`family: yolov5_heads` needs 1 … {MAX_OUTPUTS} outputs [1, a, H/s, W/s, 5 + classes]"
            )));
        }
        // The finest grid first; those that leave their shape open are taken in the file's order.
        heads.sort_by_key(|port| std::cmp::Reverse(axis(port, 2).unwrap_or(0)));
        let columns = heads.iter().filter_map(|port| last(port)).next();
        if heads.iter().any(|port| last(port).is_some_and(|n| Some(n) != columns)) {
            return Err(self.unknown("its heads have different numbers of columns"));
        }
        let classes = self.classes(columns.map(|n| n.saturating_sub(5)))?;
        let strides =
            heads.iter().enumerate().map(|(n, port)| self.stride(port, n, count)).collect::<Result<Vec<_>, _>>()?;
        if !strides.is_sorted_by(|a, b| a < b) {
            return Err(self.unknown(format!("the strides {strides:?} of its heads do not ascend")));
        }
        let anchors = self.anchors(&strides)?;
        let mut tensors = Vec::new();
        let mut rows = 0;
        for ((port, stride), anchors) in heads.iter().zip(&strides).zip(&anchors) {
            let declared = axis(port, 1);
            if declared.is_some_and(|n| n != anchors.len() as u64) {
                return Err(self.unknown(format!(
                    "head `{}` has {} anchors per cell, but `anchors` lists {}",
                    port.name,
                    declared.unwrap_or(0),
                    anchors.len()
                )));
            }
            let (down, across) = ((self.size.h / stride) as usize, (self.size.w / stride) as usize);
            let elem = Elem::from_onnx(port.elem).filter(|elem| matches!(elem, Elem::Float32 | Elem::Float16));
            let elem =
                elem.ok_or_else(|| self.unknown(format!("output `{}` must be float32 or float16", port.name)))?;
            let shape = vec![1, anchors.len(), down, across, 5 + classes];
            rows += anchors.len() * down * across;
            tensors.push(TensorSpec { name: port.name.clone(), shape, elem });
        }
        let output = OutputSpec { family: Family::YoloV5Heads, rows, classes, tensors, anchors };
        Ok(Found { output, strides })
    }

    /// The stride of head `n` of `count`.
    fn stride(&self, port: &Port, n: usize, count: usize) -> Result<u32, ModelError> {
        let declared = self.facts.strides().and_then(|s| s.get(n)).copied();
        let (down, across) = (axis(port, 2), axis(port, 3));
        let stride = match (declared, down) {
            (Some(declared), _) => Some(declared),
            (None, Some(down)) => u32::try_from(u64::from(self.size.h) / down.max(1)).ok(),
            (None, None) => (3..=4).contains(&count).then(|| 8 << n),
        };
        let fits = |stride: u32, side: u32, cells: Option<u64>| {
            side.is_multiple_of(stride) && cells.is_none_or(|cells| cells == u64::from(side / stride))
        };
        let sound =
            |stride: &u32| *stride > 0 && fits(*stride, self.size.h, down) && fits(*stride, self.size.w, across);
        stride.filter(sound).ok_or_else(|| {
            self.unknown(format!(
                "head {port} fits no stride at {}; write the right `strides` into a model.yaml beside it",
                self.size
            ))
        })
    }

    fn anchors(&self, strides: &[u32]) -> Result<Vec<Vec<Anchor>>, ModelError> {
        if let Some(declared) = self.facts.manifest.and_then(|m| m.anchors.as_ref()) {
            if declared.len() == strides.len() {
                return Ok(declared.clone());
            }
            return Err(self.unknown(format!(
                "it has {} heads, but `anchors` in {} lists {}",
                strides.len(),
                self.facts.manifest_path,
                declared.len()
            )));
        }
        usual_anchors(strides).ok_or_else(|| {
            self.unknown(format!(
                "these are raw detection heads at strides {strides:?}, for which YOLOv5 has no usual anchors; write \
                 `anchors` (per head a list of [width, height]) into a model.yaml beside it, or export the model with its \
                 decoded output ([1, N, 5 + classes])"
            ))
        })
    }
}
