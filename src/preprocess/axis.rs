//! Where each output sample of a row or column lies in the source.

/// Samples per group: their loads are scattered, but the arithmetic on a group is one or two SIMD instructions.
pub(super) const LANES: usize = 8;

/// Two-tap interpolation tables of one axis: `out = a + (b - a) · weight`, half-pixel centres, edges repeated.
///
/// The coordinates are those of OpenCV's `INTER_LINEAR`, which the reference code uses: no antialiasing. The tables are
/// padded with sample 0 to whole groups.
#[derive(Debug, Default)]
pub(super) struct Axis {
    first: Vec<[u32; LANES]>,
    weight: Vec<[f32; LANES]>,
    /// All weights are 0: each output sample equals one source sample.
    exact: bool,
}

impl Axis {
    /// Tables for `scaled` output samples over `source` picture samples, read from a plane of `plane` samples, of which
    /// each covers `step` picture samples (1 for luma, 2 for chroma, sited in the middle of its block).
    pub(super) fn build(&mut self, scaled: u32, source: u32, plane: u32, step: f64) {
        let groups = groups(scaled);
        self.first.clear();
        self.weight.clear();
        self.first.resize(groups, [0; LANES]);
        self.weight.resize(groups, [0.0; LANES]);
        let ratio = f64::from(source) / f64::from(scaled.max(1)) / step;
        let last = plane.saturating_sub(1);
        let tables = self.first.as_flattened_mut().iter_mut().zip(self.weight.as_flattened_mut());
        for (n, (first, weight)) in (0..scaled).zip(tables) {
            let at = ((f64::from(n) + 0.5) * ratio - 0.5).clamp(0.0, f64::from(last));
            *first = at as u32;
            *weight = (at - f64::from(*first)) as f32;
        }
        self.exact = self.weight.as_flattened().iter().all(|w| *w == 0.0);
    }

    /// The upper source row of output row `n`, and the weight of the row below it; 0 at the last row.
    pub(super) fn tap(&self, n: usize) -> (usize, f32) {
        let first = self.first.as_flattened().get(n).map_or(0, |i| *i as usize);
        (first, self.weight.as_flattened().get(n).copied().unwrap_or(0.0))
    }

    /// All weights are 0: [`Axis::pick`] is enough.
    pub(super) fn exact(&self) -> bool {
        self.exact
    }

    /// Takes single samples of channel `channel` of a line of `C` interleaved ones.
    pub(super) fn pick<const C: usize>(&self, line: &[u8], channel: usize, out: &mut [[f32; LANES]]) {
        let line = line.get(channel..).unwrap_or_default();
        for (out, first) in out.iter_mut().zip(&self.first) {
            for n in 0..LANES {
                out[n] = f32::from(line[first[n] as usize * C]);
            }
        }
    }

    /// Interpolates between the samples of channel `channel` of a line of `C` interleaved ones. The line has one more pixel
    /// at its end, of any finite value: its weight is 0.
    pub(super) fn interpolate<const C: usize>(&self, line: &[f32], channel: usize, out: &mut [[f32; LANES]]) {
        let line = line.get(channel..).unwrap_or_default();
        for (out, (first, weight)) in out.iter_mut().zip(self.first.iter().zip(&self.weight)) {
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            // Plain loops: `array::map` and `from_fn` are not unrolled here, at twice the cost.
            for n in 0..LANES {
                let pair = &line[first[n] as usize * C..][..C + 1];
                (a[n], b[n]) = (pair[0], pair[C]);
            }
            for n in 0..LANES {
                out[n] = a[n] + (b[n] - a[n]) * weight[n];
            }
        }
    }
}

/// Whole groups for `n` samples.
pub(super) fn groups(n: u32) -> usize {
    (n as usize).div_ceil(LANES)
}
