//! Conversion between f32 and the element type and layout of a model.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::model::{Input, InputSpec};

/// An element type of a model's input or output.
pub(in crate::infer) trait Element: Copy {
    /// The nearest value.
    fn of(value: f32) -> Self;

    fn float(self) -> f32;

    fn byte(value: u8) -> Self {
        Self::of(f32::from(value))
    }

    /// [`Self::of`] for slices of the same length.
    fn fill(values: &[f32], out: &mut [Self]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = Self::of(*value);
        }
    }

    /// [`Self::float`] for a slice; `out` gets the length of `values`.
    fn widen(values: &[Self], out: &mut Vec<f32>) {
        out.clear();
        out.extend(values.iter().map(|v| v.float()));
    }
}

impl Element for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn float(self) -> f32 {
        self
    }

    fn fill(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

impl Element for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn float(self) -> f32 {
        self.to_f32()
    }

    // The slice functions use SIMD.
    fn fill(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }

    fn widen(values: &[Self], out: &mut Vec<f32>) {
        out.resize(values.len(), 0.0);
        values.convert_to_f32_slice(out);
    }
}

impl Element for u8 {
    fn byte(value: u8) -> Self {
        value
    }

    fn of(value: f32) -> Self {
        // `as` saturates and turns NaN into 0.
        value.round() as Self
    }

    fn float(self) -> f32 {
        f32::from(self)
    }
}

impl Element for i32 {
    fn of(value: f32) -> Self {
        value as Self
    }

    // Class indices and counts are far below 2^24, so an f32 holds them exactly; here and below.
    fn float(self) -> f32 {
        self as f32
    }
}

impl Element for i64 {
    fn of(value: f32) -> Self {
        value as Self
    }

    fn float(self) -> f32 {
        self as f32
    }
}

/// Whether the model takes our tensor unchanged: planes of f32.
pub(in crate::infer) fn as_is(spec: &InputSpec) -> bool {
    spec.elem == crate::model::Elem::Float32 && !spec.channels_last
}

/// Writes a frame in the model's type and layout to `out`, which has the same length.
pub(in crate::infer) fn arrange<T: Element>(spec: &InputSpec, frame: Input<'_>, out: &mut [T]) {
    let input = match frame {
        Input::Planes(input) => input,
        Input::Bytes(bytes) => {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = T::byte(*byte);
            }
            return;
        }
    };
    if !spec.channels_last {
        return T::fill(input, out);
    }
    let pixels = input.len() / 3;
    let (red, rest) = input.split_at(pixels);
    let (green, blue) = rest.split_at(pixels.min(rest.len()));
    for (((out, a), b), c) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        out.copy_from_slice(&[T::of(*a), T::of(*b), T::of(*c)]);
    }
}

/// Writes the frames of a run side by side; the rest of a fixed batch stays as it is.
pub(in crate::infer) fn side_by_side<T: Element>(spec: &InputSpec, frames: &[Input<'_>], out: &mut [T]) {
    for (frame, out) in frames.iter().zip(out.chunks_exact_mut(spec.frame_len())) {
        arrange(spec, *frame, out);
    }
}

/// An error and its causes, on one line.
pub(in crate::infer) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;
    use crate::infer::backend::fake;

    #[test]
    fn planes_become_pixels_of_bytes() {
        let mut spec = fake::spec().input;
        assert!(as_is(&spec));
        let input = [0.0, 1.4, 254.6, 300.0, 10.0, 11.0, 12.0, 13.0, -5.0, f32::NAN, 22.0, 23.0];
        let mut out = [9_u8; 12];
        arrange(&spec, Input::Planes(&input), &mut out);
        assert_eq!(out, [0, 1, 255, 255, 10, 11, 12, 13, 0, 0, 22, 23]);
        spec.channels_last = true;
        assert!(!as_is(&spec));
        arrange(&spec, Input::Planes(&input), &mut out);
        assert_eq!(out, [0, 10, 0, 1, 11, 0, 255, 12, 22, 255, 13, 23]);
    }

    #[test]
    fn all_element_types_become_f32() {
        let mut out = vec![9.0; 5];
        i64::widen(&[0, 79, -1], &mut out);
        assert_eq!(out, [0.0, 79.0, -1.0]);
        f16::widen(&[f16::ONE, f16::from_f32(0.5)], &mut out);
        assert_eq!(out, [1.0, 0.5]);
        i32::widen(&[7], &mut out);
        assert_eq!(out, [7.0]);
        u8::widen(&[], &mut out);
        assert_eq!(out, [0.0_f32; 0]);
    }
}
