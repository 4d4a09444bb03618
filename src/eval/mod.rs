//! How good a model is on labelled pictures: average precision as COCO defines it.
//!
//! Belongs here: reading the text of label files, the arithmetic of average precision, the drawing of its curves. Does not
//! belong here: files, folders, pictures, inference; `cli` brings the texts and the detections.

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

/// What is wrong with the labels of a data set.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A line of a YOLO label file.
    #[error("{path}:{line}: {key}: {message}")]
    Line {
        /// The label file.
        path: String,
        /// Counts from 1.
        line: usize,
        /// Which of its values.
        key: &'static str,
        /// What was seen and what is needed.
        message: String,
    },
    /// A file that is not what its name promises; the message has line and column where they are known.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and where.
        message: String,
    },
    /// The classes of the data set cannot be brought together with those of the model.
    #[error("{path}: names: {message}")]
    Classes {
        /// Where the class names of the data set stand.
        path: String,
        /// What does not fit, and what to try.
        message: String,
    },
}
