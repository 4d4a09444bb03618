//! Scales still pictures exactly as OpenCV's 8-bit `INTER_LINEAR`, because their boxes are compared with those of the
//! training code: half a level of difference changes the score of a small faint object by more than 0.01.
//!
//! Video takes the faster [`super::preprocessor`]: the reference never sees its planes.

use super::planes::Rows;
use crate::types::Letterbox;

/// Weights have 11 fractional bits.
const ONE: f32 = 2048.0;

#[derive(Debug, Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Tables and lines for one source size.
#[derive(Debug, Default)]
pub(super) struct Still {
    letterbox: Option<Letterbox>,
    x: Vec<Tap>,
    y: Vec<Tap>,
    /// Source rows scaled along x (R, G, B, …), and their numbers.
    lines: [(Option<usize>, Vec<i32>); 2],
    out: Vec<i32>,
}

impl Still {
    /// Scales `rows` (R, G, B, …) and passes each output line to `put`: its number and its R, G, B, …, 0 ..= 255.
    pub(super) fn run(&mut self, rows: &Rows<'_>, letterbox: &Letterbox, mut put: impl FnMut(usize, &[i32])) {
        if self.letterbox != Some(*letterbox) {
            taps(letterbox.scaled.w, letterbox.source.w, &mut self.x);
            taps(letterbox.scaled.h, letterbox.source.h, &mut self.y);
            self.letterbox = Some(*letterbox);
        }
        // The lines of the last picture are not those of this one.
        for (row, line) in &mut self.lines {
            *row = None;
            line.resize(self.x.len() * 3, 0);
        }
        self.out.resize(self.x.len() * 3, 0);
        for (n, tap) in self.y.iter().enumerate() {
            // The second row of one line is often the first row of the next.
            if self.lines[1].0 == Some(tap.first) {
                self.lines.swap(0, 1);
            }
            for (slot, row) in self.lines.iter_mut().zip([tap.first, tap.second]) {
                if slot.0 != Some(row) {
                    scale_line(rows.row(row), &self.x, &mut slot.1);
                    slot.0 = Some(row);
                }
            }
            let [(_, first), (_, second)] = &self.lines;
            for (out, (a, b)) in self.out.iter_mut().zip(first.iter().zip(second)) {
                *out = between(*a, *b, tap.weights);
            }
            put(n, &self.out);
        }
    }
}

/// One sample between two scaled rows, with OpenCV's order of shifts.
fn between(a: i32, b: i32, weights: [i32; 2]) -> i32 {
    (((weights[0] * (a >> 4)) >> 16) + ((weights[1] * (b >> 4)) >> 16) + 2) >> 2
}

fn scale_line(row: &[u8], taps: &[Tap], out: &mut [i32]) {
    for (out, tap) in out.chunks_exact_mut(3).zip(taps) {
        let (a, b) = (&row[tap.first * 3..][..3], &row[tap.second * 3..][..3]);
        for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
            *out = i32::from(*a) * tap.weights[0] + i32::from(*b) * tap.weights[1];
        }
    }
}

fn taps(count: u32, source: u32, out: &mut Vec<Tap>) {
    let last = source.max(1) as usize - 1;
    let scale = 1.0 / (f64::from(count) / f64::from(source));
    out.clear();
    out.extend((0..count).map(|n| {
        let at = ((f64::from(n) + 0.5) * scale - 0.5) as f32;
        let (mut first, mut part) = (at.floor() as i64, at - at.floor());
        if first < 0 {
            (first, part) = (0, 0.0);
        }
        if first >= last as i64 {
            (first, part) = (last as i64, 0.0);
        }
        let first = first as usize;
        let weights = [((1.0 - part) * ONE).round_ties_even() as i32, (part * ONE).round_ties_even() as i32];
        Tap { first, second: (first + 1).min(last), weights }
    }));
}
