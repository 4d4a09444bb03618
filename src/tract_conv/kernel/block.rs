//! The innermost loop: up to six output channels of sixteen pixels.

use super::{Activation, ROWS, WIDTH};

/// Initial values of the sums of a block.
pub(super) enum Start<'a> {
    /// One value per channel.
    Bias(&'a [f32]),
    /// The values stored by the previous pass.
    Stored,
}

pub(super) struct Block<'a> {
    /// `[products][channels]`, one to six channels.
    pub(super) weights: &'a [f32],
    /// `[products][16]`.
    pub(super) panel: &'a [f32],
    pub(super) start: Start<'a>,
    pub(super) activation: Activation,
    /// Added after the activation; laid out as the output.
    pub(super) residual: Option<&'a [f32]>,
    /// `[channels][pixels]`.
    pub(super) output: &'a mut [f32],
    pub(super) pixels: usize,
    /// First pixel.
    pub(super) at: usize,
    /// Pixels, 1 to 16.
    pub(super) width: usize,
}

impl Block<'_> {
    fn channels(&self) -> usize {
        self.output.len() / self.pixels
    }
}

pub(super) fn plain(block: Block<'_>) {
    let channels = block.channels();
    let mut sums = [[0.0_f32; WIDTH]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate().take(channels) {
        let from = row * block.pixels + block.at;
        match block.start {
            Start::Bias(bias) => sums.fill(bias[row]),
            Start::Stored => sums[..block.width].copy_from_slice(&block.output[from..from + block.width]),
        }
    }
    for (weights, pixels) in block.weights.chunks_exact(channels).zip(block.panel.chunks_exact(WIDTH)) {
        for (sums, weight) in sums.iter_mut().zip(weights) {
            for (sum, pixel) in sums.iter_mut().zip(pixels) {
                *sum += weight * pixel;
            }
        }
    }
    for (row, sums) in sums.iter_mut().enumerate().take(channels) {
        let from = row * block.pixels + block.at;
        for (n, sum) in sums.iter_mut().enumerate().take(block.width) {
            if block.activation == Activation::Silu {
                *sum /= 1.0 + (-*sum).exp();
            }
            *sum += block.residual.map_or(0.0, |residual| residual[from + n]);
        }
        block.output[from..from + block.width].copy_from_slice(&sums[..block.width]);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, load, silu, store};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, _mm256_add_epi32, _mm256_add_ps, _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtps_epi32,
        _mm256_div_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
    };

    use super::{Activation, Block, Start, WIDTH};

    const LANES: usize = 8;

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in crate::tract_conv::kernel) fn load(values: &[f32; LANES]) -> __m256 {
        // SAFETY: eight floats are readable there; the load needs no alignment.
        #[allow(unsafe_code)]
        unsafe {
            _mm256_loadu_ps(values.as_ptr())
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in crate::tract_conv::kernel) fn store(values: &mut [f32; LANES], vector: __m256) {
        // SAFETY: eight floats are writable there; the store needs no alignment.
        #[allow(unsafe_code)]
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), vector);
        }
    }

    /// `x / (1 + e^-x)`, within a few units in the last place.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in crate::tract_conv::kernel) fn silu(x: __m256) -> __m256 {
        // e^y = 2^n · e^r with n whole and |r| ≤ ln 2 / 2. The bounds keep 2^n a normal number; beyond them the quotient is
        // x or, next to it, zero.
        let y = _mm256_sub_ps(_mm256_setzero_ps(), x);
        let y = _mm256_max_ps(_mm256_min_ps(y, _mm256_set1_ps(87.5)), _mm256_set1_ps(-87.0));
        let n = _mm256_cvtps_epi32(_mm256_mul_ps(y, _mm256_set1_ps(std::f32::consts::LOG2_E)));
        let whole = _mm256_cvtepi32_ps(n);
        // ln 2 in two parts: the first has few enough digits that its product is exact.
        let r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693_359_4), y);
        let r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.121_944_4e-4), r);
        // The Taylor series to the seventh power: its rest is below 1e-8 here.
        let mut e = _mm256_set1_ps(1.0 / 5040.0);
        for divisor in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
            e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0 / divisor));
        }
        let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
        _mm256_div_ps(x, _mm256_fmadd_ps(e, power, _mm256_set1_ps(1.0)))
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in crate::tract_conv::kernel) fn avx2(block: Block<'_>) {
        match block.channels() {
            1 => rows::<1>(block),
            2 => rows::<2>(block),
            3 => rows::<3>(block),
            4 => rows::<4>(block),
            5 => rows::<5>(block),
            _ => rows::<6>(block),
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn rows<const M: usize>(block: Block<'_>) {
        let (at, width, pixels) = (block.at, block.width, block.pixels);
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for (row, sums) in sums.iter_mut().enumerate() {
            match block.start {
                Start::Bias(bias) => *sums = [_mm256_set1_ps(bias.get(row).copied().unwrap_or(0.0)); 2],
                Start::Stored => *sums = read(block.output, row * pixels + at, width),
            }
        }
        let (weights, _) = block.weights.as_chunks::<M>();
        let (panel, _) = block.panel.as_chunks::<LANES>();
        let (panel, _) = panel.as_chunks::<2>();
        for (weights, pixels) in weights.iter().zip(panel) {
            let pixels = [load(&pixels[0]), load(&pixels[1])];
            for (sums, &weight) in sums.iter_mut().zip(weights) {
                let weight = _mm256_set1_ps(weight);
                *sums = [_mm256_fmadd_ps(weight, pixels[0], sums[0]), _mm256_fmadd_ps(weight, pixels[1], sums[1])];
            }
        }
        for (row, mut sums) in sums.into_iter().enumerate() {
            let from = row * pixels + at;
            if block.activation == Activation::Silu {
                sums = sums.map(|sum| silu(sum));
            }
            if let Some(residual) = block.residual {
                let residual = read(residual, from, width);
                sums = [_mm256_add_ps(sums[0], residual[0]), _mm256_add_ps(sums[1], residual[1])];
            }
            write(block.output, from, width, sums);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn read(values: &[f32], from: usize, width: usize) -> [__m256; 2] {
        let mut part = [0.0; WIDTH];
        let values = match values.get(from..from + width) {
            Some(values) if width == WIDTH => values.as_chunks::<LANES>().0,
            Some(values) => {
                part[..width].copy_from_slice(values);
                part.as_chunks::<LANES>().0
            }
            None => part.as_chunks::<LANES>().0,
        };
        [load(&values[0]), load(&values[1])]
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn write(values: &mut [f32], from: usize, width: usize, sums: [__m256; 2]) {
        let Some(values) = values.get_mut(from..from + width) else { return };
        let mut part = [0.0; WIDTH];
        if let ([low, high], []) = values.as_chunks_mut::<LANES>() {
            store(low, sums[0]);
            store(high, sums[1]);
            return;
        }
        if let ([low, high], _) = part.as_chunks_mut::<LANES>() {
            store(low, sums[0]);
            store(high, sums[1]);
        }
        values.copy_from_slice(&part[..width]);
    }
}
