//! From pixels to the input tensor: letterbox, colour and normalisation in one pass from the decoder's planes.
//!
//! Belongs here: arithmetic on pixels. Does not belong here: where frames come from.

mod axis;
mod canvas;
mod planes;
mod preprocessor;
mod still;
#[cfg(test)]
mod tests;

pub use planes::PreprocessError;
pub use preprocessor::Preprocessor;
