//! Depthwise convolutions: each output sees one channel.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_set1_ps};

#[cfg(target_arch = "x86_64")]
use super::block::{load, silu, store};
use super::stage::Stage;
use super::{Activation, Window};

#[derive(Debug, Clone)]
pub(in crate::tract_conv) struct Depthwise {
    /// The window of one channel.
    window: Window,
    /// `[channels][kernel height · kernel width]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl Depthwise {
    /// `weights` is `[channels, kernel height, kernel width]`, `bias` one value per channel. `None` if the lengths do not
    /// match.
    pub(in crate::tract_conv) fn new(
        window: Window,
        weights: Vec<f32>,
        bias: Vec<f32>,
        activation: Activation,
    ) -> Option<Self> {
        // A window of one pixel is a matrix product, which needs no staging.
        let fits =
            !window.pointwise() && bias.len() == window.channels && weights.len() == window.channels * window.taps();
        (window.sane() && fits).then_some(Self { window: Window { channels: 1, ..window }, weights, bias, activation })
    }

    pub(in crate::tract_conv) fn output_len(&self) -> usize {
        self.bias.len() * self.window.pixels()
    }

    /// Convolves `input` and writes all of `output`. Returns false and writes nothing if a length is wrong.
    pub(in crate::tract_conv) fn run(&self, input: &[f32], output: &mut [f32]) -> bool {
        if input.len() != self.bias.len() * self.window.input_len() || output.len() != self.output_len() {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if super::vectors() {
            // SAFETY: the processor has AVX2 and FMA.
            #[allow(unsafe_code)]
            unsafe {
                self.run_avx2(input, output);
            }
            return true;
        }
        self.run_with(input, output, plain);
        true
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, input: &[f32], output: &mut [f32]) {
        if self.window.output[1] < super::WIDTH {
            self.run_with(input, output, |row, out| avx2::<1>(row, out));
        } else {
            self.run_with(input, output, |row, out| avx2::<2>(row, out));
        }
    }

    #[inline(always)]
    pub(super) fn run_with(&self, input: &[f32], output: &mut [f32], compute: impl Fn(&Row<'_>, &mut [f32])) {
        let window = &self.window;
        let mut stage = Stage::whole(window);
        let mut taps: Vec<(usize, f32)> = stage.taps().map(|offset| (offset, 0.0)).collect();
        let channels = input.chunks_exact(window.input_len()).zip(output.chunks_exact_mut(window.pixels()));
        let kernels = self.weights.chunks_exact(window.taps()).zip(&self.bias);
        for ((input, output), (weights, &bias)) in channels.zip(kernels) {
            stage.fill(input, &(0..1), &(0..window.output[0]));
            taps.iter_mut().zip(weights).for_each(|(tap, weight)| tap.1 = *weight);
            for (y, output) in output.chunks_exact_mut(window.output[1]).enumerate() {
                compute(&Row { staged: stage.row(y), taps: &taps, bias, activation: self.activation }, output);
            }
        }
    }
}

/// What one row of output pixels is computed from.
pub(super) struct Row<'a> {
    /// Staged input, from the first value of the first window on.
    staged: &'a [f32],
    /// For each kernel value: the offset of the input values that it is multiplied with, and the value.
    taps: &'a [(usize, f32)],
    bias: f32,
    activation: Activation,
}

pub(super) fn plain(row: &Row<'_>, output: &mut [f32]) {
    output.fill(row.bias);
    for &(offset, weight) in row.taps {
        for (sum, value) in output.iter_mut().zip(row.staged.get(offset..).unwrap_or_default()) {
            *sum += weight * value;
        }
    }
    if row.activation == Activation::Silu {
        output.iter_mut().for_each(|sum| *sum /= 1.0 + (-*sum).exp());
    }
}

/// Computes `V` vectors at once. The last ones of a row overlap the ones before, so that all are full.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn avx2<const V: usize>(row: &Row<'_>, output: &mut [f32]) {
    let last = output.len().saturating_sub(8 * V);
    for at in (0..output.len()).step_by(8 * V) {
        let at = at.min(last);
        let sums = vectors::<V>(row, at);
        let output = &mut output[at..];
        let (whole, _) = output.as_chunks_mut::<8>();
        if whole.len() >= V {
            whole.iter_mut().zip(sums).for_each(|(out, sum)| store(out, sum));
        } else {
            let mut part = [0.0; 8];
            store(&mut part, sums[0]);
            output.iter_mut().zip(part).for_each(|(out, sum)| *out = sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn vectors<const V: usize>(row: &Row<'_>, at: usize) -> [__m256; V] {
    let mut sums = [_mm256_set1_ps(row.bias); V];
    for &(offset, weight) in row.taps {
        let Some(values) = row.staged.get(at + offset..at + offset + 8 * V) else { break };
        let weight = _mm256_set1_ps(weight);
        for (sum, values) in sums.iter_mut().zip(values.as_chunks::<8>().0) {
            *sum = _mm256_fmadd_ps(weight, load(values), *sum);
        }
    }
    match row.activation {
        Activation::None => sums,
        Activation::Silu => sums.map(|sum| silu(sum)),
    }
}
