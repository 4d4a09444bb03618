//! The padded input, and the windows of sixteen output pixels side by side.

use std::ops::Range;

use super::{WIDTH, Window};

/// Staged values at most: half of an L2 cache of 256 kB.
const STAGED: usize = 1 << 15;

/// Padded rows of some channels. A row is stored as one part per horizontal phase, so that a stride of two reads
/// consecutive values too.
pub(super) struct Stage<'a> {
    window: &'a Window,
    /// Length of one part of a row.
    part: usize,
    /// Output rows that are staged at once.
    rows: usize,
    values: Vec<f32>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(window: &'a Window, channels: usize) -> Self {
        let [height, width] = window.output;
        if window.pointwise() {
            return Self { window, part: height * width, rows: height, values: Vec::new() };
        }
        let part = width + (window.kernel[1] - 1) / window.stride[1];
        let row = channels * window.stride[1] * part * window.stride[0];
        // Bands of full vectors: 4 rows of 20 pixels are five of them.
        let whole = WIDTH / gcd(WIDTH, width);
        let rows = (STAGED / row).max(1).next_multiple_of(whole).min(height);
        let mut stage = Self { window, part, rows, values: Vec::new() };
        stage.values = vec![0.0; channels * stage.plane(rows) + WIDTH];
        stage
    }

    /// With room for all rows of one channel.
    pub(super) fn whole(window: &'a Window) -> Self {
        let part = window.output[1] + (window.kernel[1] - 1) / window.stride[1];
        let rows = window.output[0];
        let mut stage = Self { window, part, rows, values: Vec::new() };
        stage.values = vec![0.0; stage.plane(rows) + WIDTH];
        stage
    }

    /// Length of one staged channel.
    fn plane(&self, rows: usize) -> usize {
        ((rows - 1) * self.window.stride[0] + self.window.kernel[0]) * self.window.stride[1] * self.part
    }

    /// The output rows in the bands that are staged.
    pub(super) fn bands(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, height) = (self.rows, self.window.output[0]);
        (0..height).step_by(rows).map(move |first| first..(first + rows).min(height))
    }

    /// Copies the part of `channels` that the windows of `band` (output rows) cover.
    #[inline(always)]
    pub(super) fn fill(&mut self, input: &[f32], channels: &Range<usize>, band: &Range<usize>) {
        if self.window.pointwise() {
            return;
        }
        let window = self.window;
        let ([height, width], plane) = (window.input, self.plane(self.rows));
        let row = window.stride[1] * self.part;
        let top = band.start * window.stride[0];
        for (channel, staged) in channels.clone().zip(self.values.chunks_exact_mut(plane)) {
            for (y, staged) in staged.chunks_exact_mut(row).enumerate() {
                match (top + y).checked_sub(window.pad[0]).filter(|&y| y < height) {
                    None => staged.fill(0.0),
                    Some(y) => {
                        let from = (channel * height + y) * width;
                        for (phase, staged) in staged.chunks_exact_mut(self.part).enumerate() {
                            spread(&input[from..from + width], window, phase, staged);
                        }
                    }
                }
            }
        }
    }

    /// Writes, for each product of a sum, its input for `width` (≤ 16) output pixels from `at` on: `[products][16]`.
    #[inline(always)]
    pub(super) fn pack(
        &self,
        input: &[f32],
        channels: &Range<usize>,
        band: &Range<usize>,
        at: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        if self.window.pointwise() {
            for (k, channel) in channels.clone().enumerate() {
                let from = channel * self.part + at;
                match (input.get(from..from + WIDTH), panel.get_mut(k * WIDTH..(k + 1) * WIDTH)) {
                    (Some(values), Some(panel)) => panel.copy_from_slice(values),
                    (None, Some(panel)) => panel[..width].copy_from_slice(&input[from..from + width]),
                    _ => {}
                }
            }
            return;
        }
        let row = self.window.stride[1] * self.part;
        let (mut done, mut segments) = (0, [(0, 0); WIDTH]);
        let mut count = 0;
        while done < width {
            let (y, x) = ((at + done) / self.window.output[1] - band.start, (at + done) % self.window.output[1]);
            segments[count] = (y * self.window.stride[0] * row + x, done);
            count += 1;
            done += (self.window.output[1] - x).min(width - done);
        }
        let (plane, [tall, wide]) = (self.plane(self.rows), self.window.kernel);
        let mut k = 0;
        for channel in 0..channels.len() {
            for y in 0..tall {
                for x in 0..wide {
                    let base =
                        channel * plane + y * row + x % self.window.stride[1] * self.part + x / self.window.stride[1];
                    // Always full vectors: the surplus is overwritten by the next segment or the next product.
                    for &(from, to) in &segments[..count] {
                        let values = &self.values[base + from..base + from + WIDTH];
                        panel[k + to..k + to + WIDTH].copy_from_slice(values);
                    }
                    k += WIDTH;
                }
            }
        }
    }

    /// For each kernel value: the offset of its input value from the first value of the window.
    pub(super) fn taps(&self) -> impl Iterator<Item = usize> + use<> {
        let ([tall, wide], stride, part) = (self.window.kernel, self.window.stride[1], self.part);
        (0..tall).flat_map(move |y| (0..wide).map(move |x| y * stride * part + x % stride * part + x / stride))
    }

    /// The first staged channel, from the first window of output row `y` on.
    #[inline(always)]
    pub(super) fn row(&self, y: usize) -> &[f32] {
        self.values.get(y * self.window.stride[0] * self.window.stride[1] * self.part..).unwrap_or_default()
    }
}

/// Copies every `stride`-th value of an input row from `phase` on. The zeros to its left and right are there already.
#[inline(always)]
fn spread(row: &[f32], window: &Window, phase: usize, out: &mut [f32]) {
    let (stride, pad) = (window.stride[1], window.pad[1]);
    // Value `n` of the part is the input at `n · stride + phase - pad`.
    let zeros = pad.saturating_sub(phase).div_ceil(stride);
    let out = out.get_mut(zeros..).unwrap_or_default();
    let row = row.get((zeros * stride + phase).saturating_sub(pad)..).unwrap_or_default();
    match stride {
        1 => {
            let count = row.len().min(out.len());
            out[..count].copy_from_slice(&row[..count]);
        }
        2 => out.iter_mut().zip(row.chunks(2)).for_each(|(out, pair)| *out = pair[0]),
        _ => out.iter_mut().zip(row.iter().step_by(stride)).for_each(|(out, value)| *out = *value),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
