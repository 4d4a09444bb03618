//! Where each output sample of a row or column lies in the source.

/// Two-tap interpolation tables of one axis: `out = a + (b - a) · weight`, half-pixel centres, edges repeated.
///
/// These are the coordinates of OpenCV's `INTER_LINEAR`, which the reference code letterboxes with: no antialiasing.
#[derive(Debug, Default)]
pub(super) struct Axis {
    first: Vec<u32>,
    second: Vec<u32>,
    weight: Vec<f32>,
    /// All weights are 0: each output sample is one source sample.
    exact: bool,
}

impl Axis {
    /// Tables for `scaled` output samples over `source` picture samples, read from a plane of `plane` samples, of which
    /// each covers `step` picture samples (1 for luma, 2 for chroma, sited in the middle of its block).
    pub(super) fn build(&mut self, scaled: u32, source: u32, plane: u32, step: f64) {
        self.first.clear();
        self.second.clear();
        self.weight.clear();
        let ratio = f64::from(source) / f64::from(scaled.max(1)) / step;
        let last = plane.saturating_sub(1);
        for n in 0..scaled {
            let at = ((f64::from(n) + 0.5) * ratio - 0.5).clamp(0.0, f64::from(last));
            let first = at as u32;
            self.first.push(first);
            self.second.push((first + 1).min(last));
            self.weight.push((at - f64::from(first)) as f32);
        }
        self.exact = self.weight.iter().all(|w| *w == 0.0);
    }

    /// The two source rows of output row `n` and the second one's weight.
    pub(super) fn tap(&self, n: usize) -> (usize, usize, f32) {
        let get = |list: &[u32]| list.get(n).map_or(0, |i| *i as usize);
        (get(&self.first), get(&self.second), self.weight.get(n).copied().unwrap_or(0.0))
    }

    /// Samples a line along this axis: `out[n]` from samples `first[n]` and `second[n]` of channel `channel` of
    /// `channels` interleaved ones. Every index is below `plane`, which the line is long enough for.
    pub(super) fn sample<T: Copy + Into<f32>>(&self, line: &[T], channels: usize, channel: usize, out: &mut [f32]) {
        if self.exact {
            for (out, first) in out.iter_mut().zip(&self.first) {
                *out = line[*first as usize * channels + channel].into();
            }
            return;
        }
        let taps = self.first.iter().zip(&self.second).zip(&self.weight);
        for (out, ((first, second), weight)) in out.iter_mut().zip(taps) {
            let a: f32 = line[*first as usize * channels + channel].into();
            let b: f32 = line[*second as usize * channels + channel].into();
            *out = a + (b - a) * weight;
        }
    }
}
