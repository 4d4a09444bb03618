//! Accuracy of a model on labelled pictures: average precision as COCO defines it.
//!
//! Belongs here: parsing label files, the arithmetic of average precision, drawing its curves. Does not belong here:
//! files, folders, pictures, inference; `cli` passes texts and detections in.

mod agreement;
mod average_precision;
mod coco;
mod dataset;
mod plot;

pub use agreement::{Agreement, Tolerance, Worst};
pub use average_precision::{
    CURVE_POINTS, ClassScore, Found, IOU_STEPS, ImageTruths, MAX_PER_CLASS, Rect, Score, Truth,
};
pub use average_precision::{iou_threshold, score};
pub use coco::{CocoCategory, CocoImage, CocoSet, CocoTruth, ResultRow};
pub use dataset::{ClassMap, FractionBox, parse_labels, parse_names};
pub use plot::svg;

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A line of a YOLO label file; lines count from 1.
    #[error("{path}:{line}: {key}: {message}")]
    Line { path: String, line: usize, key: &'static str, message: String },
    /// A malformed file; the message has line and column where they are known.
    #[error("{path}: {message}")]
    File { path: String, message: String },
    /// The classes of the data set do not match those of the model.
    #[error("{path}: names: {message}")]
    Classes { path: String, message: String },
}
