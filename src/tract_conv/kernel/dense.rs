//! Convolutions in which each output sees all channels: a matrix product over packed windows.

use super::block::{Block, Start, plain};
use super::stage::Stage;
use super::{Activation, DEPTH, ROWS, WIDTH, Window};

/// A dense convolution with packed weights.
#[derive(Debug, Clone)]
pub(in crate::tract_conv) struct Conv {
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
    /// `weights` is `[outputs, channels, kernel height, kernel width]`, `bias` one value per output. `None` if the lengths
    /// do not match.
    pub(in crate::tract_conv) fn new(
        window: Window,
        weights: &[f32],
        bias: Vec<f32>,
        activation: Activation,
    ) -> Option<Self> {
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

    pub(in crate::tract_conv) fn output_len(&self) -> usize {
        self.outputs * self.window.pixels()
    }

    /// Convolves `input`, adds `residual` (as long as the output) after the activation, and writes all of `output`. Returns
    /// false and writes nothing if a length is wrong.
    pub(in crate::tract_conv) fn run(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) -> bool {
        let len = self.output_len();
        if input.len() != self.window.input_len() || output.len() != len || residual.is_some_and(|r| r.len() != len) {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if super::vectors() {
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
        self.run_with(input, residual, output, |block| super::block::avx2(block));
    }

    #[inline(always)]
    pub(super) fn run_with(
        &self,
        input: &[f32],
        residual: Option<&[f32]>,
        output: &mut [f32],
        multiply: impl Fn(Block<'_>),
    ) {
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
