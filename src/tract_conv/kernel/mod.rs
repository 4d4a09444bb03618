//! SIMD kernels for f32 convolutions on AVX2 and FMA. Without AVX2, plain loops compute the same.
//!
//! This folder is the only place of the room that may hold `unsafe`.

mod block;
mod dense;
mod depthwise;
mod stage;
#[cfg(test)]
mod tests;

pub(super) use dense::Conv;
pub(super) use depthwise::Depthwise;

/// Output channels that are computed together.
const ROWS: usize = 6;
/// Output pixels that are computed together: 6 × 16 sums fill twelve of the sixteen vector registers.
const WIDTH: usize = 16;
/// Products per sum and pass: 16 pixels of that many inputs fit into the L1 cache (16 kB).
const DEPTH: usize = 256;

/// Whether the kernels are faster here than tract's own: the processor has AVX2 and FMA, but no AVX-512.
pub(super) fn fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return vectors() && !std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Applied to each sum before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Activation {
    None,
    /// `x / (1 + e^-x)`.
    Silu,
}

/// The shape of a convolution. Images are `[channels, height, width]`; pairs are vertical, horizontal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Window {
    pub(super) channels: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    /// Zeros above and to the left of the input; below and to the right there are as many as needed.
    pub(super) pad: [usize; 2],
}

impl Window {
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn input_len(&self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    /// The input is read in place.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0] && self.input == self.output
    }

    fn sane(&self) -> bool {
        self.channels > 0 && self.taps() > 0 && self.pixels() > 0 && self.stride.iter().all(|&stride| stride > 0)
    }
}
