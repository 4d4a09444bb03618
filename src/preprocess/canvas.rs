//! Writes into the tensor: f32 planes, or bytes in planes or pixels.

use crate::model::ChannelOrder;
use crate::types::Letterbox;

/// Receives the lines of the scaled picture, in the model's range.
pub(super) trait Canvas {
    /// `write` fills the slices with line `n` of red, green and blue.
    fn line(&mut self, n: usize, write: impl FnOnce([&mut [f32]; 3]));
}

pub(super) struct Floats<'a> {
    /// Red, green, blue.
    pub(super) rgb: [&'a mut [f32]; 3],
    pub(super) letterbox: Letterbox,
}

impl Canvas for Floats<'_> {
    fn line(&mut self, n: usize, write: impl FnOnce([&mut [f32]; 3])) {
        let (from, width) = place(&self.letterbox, n);
        write(self.rgb.each_mut().map(|plane| &mut plane[from..][..width]));
    }
}

pub(super) struct Bytes<'a> {
    /// Red, green, blue.
    pub(super) rgb: [&'a mut [u8]; 3],
    /// One line of each, before it is rounded.
    pub(super) lines: [Vec<f32>; 3],
    pub(super) letterbox: Letterbox,
}

impl Canvas for Bytes<'_> {
    fn line(&mut self, n: usize, write: impl FnOnce([&mut [f32]; 3])) {
        write(self.lines.each_mut().map(Vec::as_mut_slice));
        let (from, width) = place(&self.letterbox, n);
        for (plane, line) in self.rgb.iter_mut().zip(&self.lines) {
            for (out, value) in plane[from..][..width].iter_mut().zip(line) {
                *out = byte(*value);
            }
        }
    }
}

pub(super) struct Pixels<'a> {
    pub(super) tensor: &'a mut [u8],
    pub(super) order: ChannelOrder,
    /// One line of red, green and blue, before it is rounded.
    pub(super) lines: [Vec<f32>; 3],
    pub(super) letterbox: Letterbox,
}

impl Canvas for Pixels<'_> {
    fn line(&mut self, n: usize, write: impl FnOnce([&mut [f32]; 3])) {
        write(self.lines.each_mut().map(Vec::as_mut_slice));
        let (from, width) = place(&self.letterbox, n);
        let [red, green, blue] = &self.lines;
        let (first, third) = match self.order {
            ChannelOrder::Rgb => (red, blue),
            ChannelOrder::Bgr => (blue, red),
        };
        let out = self.tensor[3 * from..][..3 * width].chunks_exact_mut(3);
        for (((out, a), b), c) in out.zip(first).zip(green).zip(third) {
            out.copy_from_slice(&[byte(*a), byte(*b), byte(*c)]);
        }
    }
}

/// The nearest byte; values are finite and not negative.
fn byte(value: f32) -> u8 {
    // The cast through an integer vectorises.
    (value + 0.5) as i32 as u8
}

/// Where line `n` of the scaled picture begins in a plane of the tensor, and how long it is.
fn place(letterbox: &Letterbox, n: usize) -> (usize, usize) {
    let from = (letterbox.top as usize + n) * letterbox.target.w as usize + letterbox.left as usize;
    (from, letterbox.scaled.w as usize)
}

/// The planes of red, green and blue in a tensor of three equal ones.
pub(super) fn planes<T>(tensor: &mut [T], order: ChannelOrder) -> [&mut [T]; 3] {
    let len = tensor.len() / 3;
    let (first, rest) = tensor.split_at_mut(len);
    let (second, third) = rest.split_at_mut(len);
    match order {
        ChannelOrder::Rgb => [first, second, third],
        ChannelOrder::Bgr => [third, second, first],
    }
}

/// Fills what the picture does not cover. A pixel has `samples` values.
pub(super) fn fill_border<T: Copy>(plane: &mut [T], letterbox: &Letterbox, samples: usize, value: T) {
    let width = letterbox.target.w as usize * samples;
    let (left, inner) = (letterbox.left as usize * samples, letterbox.scaled.w as usize * samples);
    let (top, bottom) = (letterbox.top as usize, (letterbox.top + letterbox.scaled.h) as usize);
    plane[..top * width].fill(value);
    plane[bottom * width..].fill(value);
    if inner < width {
        for line in plane[top * width..bottom * width].chunks_exact_mut(width) {
            line[..left].fill(value);
            line[left + inner..].fill(value);
        }
    }
}
