//! Convolutions of single floats on AVX2: dense ones as a matrix product over packed windows, and those of single channels.
//!
//! A processor without AVX2 and FMA computes the same by plain loops; [`fast`] says whether it is worth it.

mod block;
mod depthwise;
mod stage;
#[cfg(test)]
mod tests;

pub use depthwise::Depthwise;

use block::{Block, Start, plain};
use stage::Stage;

/// Output channels that are computed together.
const ROWS: usize = 6;
/// Output pixels that are computed together: 6 × 16 sums fill twelve of the sixteen vector registers.
const WIDTH: usize = 16;
/// Products per sum and pass: 16 pixels of as many inputs stay in the first-level cache (16 kB).
const DEPTH: usize = 256;

/// Whether [`Conv`] and [`Depthwise`] run on vectors that this processor has, and has no wider ones.
#[must_use]
pub fn fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return vectors() && !std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// What happens to a sum before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x / (1 + e^-x)`.
    Silu,
}

/// Where the windows of a convolution lie. Pictures are `[channels, height, width]`; pairs are vertical, horizontal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    /// Channels of the input.
    pub channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Size of the kernel.
    pub kernel: [usize; 2],
    /// Step from one output pixel to the next.
    pub stride: [usize; 2],
    /// Zeros above and to the left of the input; below and to the right there are as many as the windows reach.
    pub pad: [usize; 2],
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

    /// The input is read as it lies.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0] && self.input == self.output
    }

    fn sane(&self) -> bool {
        self.channels > 0 && self.taps() > 0 && self.pixels() > 0 && self.stride.iter().all(|&stride| stride > 0)
    }
}

/// A dense convolution whose weights are packed for it.
#[derive(Debug, Clone)]
pub struct Conv {
    window: Window,
    outputs: usize,
    /// By pass, then by block of output channels: `[products of the pass][channels of the block]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// First channel of each block, and the end.
    blocks: Vec<usize>,
    activation: Activation,
}

impl Conv {
    /// `weights` is `[outputs, channels, kernel height, kernel width]`, `bias` one value per output. `None` when the lengths
    /// do not fit together.
    #[must_use]
    pub fn new(window: Window, weights: &[f32], bias: Vec<f32>, activation: Activation) -> Option<Self> {
        let (outputs, depth) = (bias.len(), window.channels * window.taps());
        if !window.sane() || outputs == 0 || weights.len() != outputs * depth {
            return None;
        }
        // Blocks of nearly the same size: 16 channels are 6 + 5 + 5, because a block of 4 costs as much as one of 5.
        let count = outputs.div_ceil(ROWS);
        let blocks: Vec<usize> = (0..=count).map(|n| n * outputs / count).collect();
        let mut packed = Vec::with_capacity(weights.len());
        let pass = channels_per_pass(&window) * window.taps();
        for start in (0..depth).step_by(pass) {
            for pair in blocks.windows(2) {
                for k in start..(start + pass).min(depth) {
                    packed.extend((pair[0]..pair[1]).filter_map(|m| weights.get(m * depth + k)));
                }
            }
        }
        Some(Self { window, outputs, weights: packed, bias, blocks, activation })
    }

    /// Values of the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.outputs * self.window.pixels()
    }

    /// Convolves `input`, adds `residual` (as long as the output) after the activation, and writes all of `output`. False,
    /// with nothing written, when a length is wrong.
    #[must_use]
    pub fn run(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) -> bool {
        let len = self.output_len();
        if input.len() != self.window.input_len() || output.len() != len || residual.is_some_and(|r| r.len() != len) {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if vectors() {
            // SAFETY: the processor has AVX2 and FMA.
            #[allow(unsafe_code)]
            unsafe {
                self.run_avx2(input, residual, output);
            }
            return true;
        }
        self.run_with(input, residual, output, plain);
        true
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) {
        self.run_with(input, residual, output, |block| block::avx2(block));
    }

    #[inline(always)]
    fn run_with(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32], multiply: impl Fn(Block<'_>)) {
        let (pixels, per_pass) = (self.window.pixels(), channels_per_pass(&self.window));
        let mut stage = Stage::new(&self.window, per_pass);
        let mut panel = vec![0.0; (per_pass * self.window.taps() + 1) * WIDTH];
        let mut weights = self.weights.as_slice();
        for first in (0..self.window.channels).step_by(per_pass) {
            let channels = first..(first + per_pass).min(self.window.channels);
            let depth = channels.len() * self.window.taps();
            let last = channels.end == self.window.channels;
            let Some((here, rest)) = weights.split_at_checked(depth * self.outputs) else { return };
            weights = rest;
            for band in stage.bands() {
                stage.fill(input, &channels, &band);
                for at in (band.start * self.window.output[1]..band.end * self.window.output[1]).step_by(WIDTH) {
                    let width = WIDTH.min(band.end * self.window.output[1] - at);
                    stage.pack(input, &channels, &band, at, width, &mut panel);
                    for pair in self.blocks.windows(2) {
                        let (from, to) = (pair[0], pair[1]);
                        multiply(Block {
                            weights: &here[depth * from..depth * to],
                            panel: &panel[..depth * WIDTH],
                            start: if first == 0 { Start::Bias(&self.bias[from..to]) } else { Start::Stored },
                            activation: if last { self.activation } else { Activation::None },
                            residual: residual.filter(|_| last).map(|residual| &residual[from * pixels..to * pixels]),
                            output: &mut output[from * pixels..to * pixels],
                            pixels,
                            at,
                            width,
                        });
                    }
                }
            }
        }
    }
}

fn channels_per_pass(window: &Window) -> usize {
    (DEPTH / window.taps()).clamp(1, window.channels)
}
