//! Families with one output whose rows are the cells of grids.

use super::error::ModelError;
use super::facts::{Found, MAX_CLASSES, Query};
use super::family::Family;
use super::tensors::{Elem, OutputSpec, TensorSpec};
use crate::onnx::Port;
use crate::types::Size;

/// The output as the file declares it: `[b, second, third]`.
struct Shape<'a> {
    port: &'a Port,
    second: Option<u64>,
    third: Option<u64>,
    /// Parts that the last `Concat` joins; 0: not known.
    parts: usize,
}

pub(super) fn find(query: &Query<'_>) -> Result<Found, ModelError> {
    let shape = output(query)?;
    let family = family(query, &shape)?;
    let classes = classes(query, &shape, family)?;
    let strides = strides(query, &shape, family)?;
    let rows = query.rows(family, &strides) as usize;
    let tensor = TensorSpec {
        name: shape.port.name.clone(),
        shape: family.shape(rows, classes).to_vec(),
        elem: Elem::from_onnx(shape.port.elem).unwrap_or_default(),
    };
    Ok(Found { output: OutputSpec { family, rows, classes, tensors: vec![tensor], anchors: Vec::new() }, strides })
}

/// The first output of rank 3. Old exports list their raw heads beside the decoded output.
fn output<'a>(query: &Query<'a>) -> Result<Shape<'a>, ModelError> {
    let info = query.facts.info;
    if let Some(task) = info.meta("task").filter(|t| *t != "detect") {
        return Err(query.unknown(format!("the model's task is `{task}`, Ocelli runs detectors (`detect`)")));
    }
    for port in &query.ports {
        let Some([batch, second, third]) = port.dims.as_deref() else { continue };
        if batch.fixed().is_some_and(|b| b != query.frames) {
            continue;
        }
        if !matches!(Elem::from_onnx(port.elem), Some(Elem::Float32 | Elem::Float16)) {
            return Err(query.unknown(format!("output `{}` must be float32 or float16", port.name)));
        }
        let n = info.outputs.iter().position(|p| p.name == port.name).unwrap_or(0);
        let parts = info.concat_parts.get(n).copied().unwrap_or(0);
        return Ok(Shape { port, second: second.fixed(), third: third.fixed(), parts });
    }
    Err(query.unknown("no output of rank 3 ([1, N, 5 + classes])"))
}

/// The manifest's family, else what the shape allows.
fn family(query: &Query<'_>, shape: &Shape<'_>) -> Result<Family, ModelError> {
    if let Some(family) = query.facts.family() {
        return Ok(family);
    }
    let fits = |family: Family, n: Option<u64>| n.is_some_and(|n| query.strides_for(family, n, shape.parts).is_some());
    let columns = |n: Option<u64>, fixed: u64| match query.labels {
        Some(labels) => n.is_none_or(|n| n == fixed + labels.len() as u64),
        None => n.is_some_and(|n| n > fixed),
    };
    let (second, third) = (shape.second, shape.third);
    if fits(Family::YoloV5, second) || (second.is_none() && columns(third, 5)) {
        return Ok(Family::YoloV5);
    }
    if fits(Family::YoloV8, third) || (third.is_none() && second.is_some() && columns(second, 4)) {
        return Ok(Family::YoloV8);
    }
    if fits(Family::YoloX, second) {
        return Err(
            query.unknown("it looks like YOLOX: write `family: yolox` (and `labels`) into a model.yaml beside it")
        );
    }
    let stride = query.max_stride.map_or("no stride in the metadata".into(), |s| format!("largest stride {s}"));
    Err(query.unknown(format!(
        "for an input of {} and {stride} neither [1, N, 5 + classes] nor [1, 4 + classes, N] fits; if you know the \
         layout, write `family`, `strides` and `labels` into a model.yaml beside it",
        query.size
    )))
}

/// The number of classes: from the shape, which the labels must agree with; else from the labels.
fn classes(query: &Query<'_>, shape: &Shape<'_>, family: Family) -> Result<usize, ModelError> {
    let (columns, fixed) = match family {
        Family::YoloV5 | Family::YoloX => (shape.third, 5),
        _ => (shape.second, 4),
    };
    let named = query.labels.map(|l| l.len() as u64);
    let count = match (columns, named) {
        (Some(columns), named) => {
            let count = columns.saturating_sub(fixed);
            if let Some(named) = named.filter(|n| *n != count) {
                let metadata = query.facts.info.meta("names").is_some();
                let origin = if metadata { "the metadata `names`" } else { "the manifest" };
                return Err(query.wrong_classes(format!(
                    "output `{}` has {columns} columns, that is {fixed} + {count} classes ({}), but {origin} names {named}",
                    shape.port.name,
                    family.as_str(),
                )));
            }
            count
        }
        (None, Some(named)) => named,
        (None, None) => {
            return Err(query.wrong_classes(format!(
                "output {} leaves it open and the file has no `names`: write `labels` into a model.yaml beside it",
                shape.port
            )));
        }
    };
    match count {
        1..=MAX_CLASSES => Ok(count as usize),
        _ => Err(query.wrong_classes(format!("{count} classes; expected 1 … {MAX_CLASSES}. Output {}", shape.port))),
    }
}

/// The strides, proved by the number of rows when the file fixes it.
fn strides(query: &Query<'_>, shape: &Shape<'_>, family: Family) -> Result<Vec<u32>, ModelError> {
    let size = query.size;
    let possible = query.strides(shape.parts);
    let fixed = if family == Family::YoloV8 { shape.third } else { shape.second };
    let found = match fixed {
        Some(n) => possible.iter().find(|s| query.rows(family, s) == n),
        None => possible.first(),
    };
    let Some(found) = found else {
        let tried: Vec<String> = possible.iter().map(|s| format!("{s:?} gives {}", query.rows(family, s))).collect();
        return Err(query.unknown(format!(
            "its {} rows fit no strides at {size} ({}: {}); write the right `strides` into a model.yaml beside it",
            fixed.unwrap_or(0),
            family.as_str(),
            tried.join(", ")
        )));
    };
    let largest = found.last().copied().unwrap_or(1).max(1);
    if !size.w.is_multiple_of(largest) || !size.h.is_multiple_of(largest) {
        let next = Size::new(size.w.next_multiple_of(largest), size.h.next_multiple_of(largest));
        return Err(ModelError::Size {
            path: query.facts.path.clone(),
            reason: format!(
                "input size {size} is no multiple of the largest stride {largest}: the next valid size is {next}"
            ),
        });
    }
    Ok(found.clone())
}
