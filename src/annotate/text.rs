//! One line of text without allocation, and its font.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::canvas::{Canvas, Ink};

/// Characters of a line; longer text is cut.
const CAPACITY: usize = 96;

/// Characters that the font lacks become `?`.
pub(super) struct Line {
    chars: [char; CAPACITY],
    len: usize,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { chars: [' '; CAPACITY], len: 0 }
    }

    pub(super) fn chars(&self) -> &[char] {
        self.chars.get(..self.len).unwrap_or_default()
    }

    /// Appends at most `limit` characters of `text`.
    pub(super) fn push(&mut self, text: &str, limit: usize) {
        for c in text.chars().take(limit) {
            let known = matches!(c, ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}');
            if let Some(slot) = self.chars.get_mut(self.len) {
                *slot = if known { c } else { '?' };
                self.len += 1;
            }
        }
    }

    /// Cuts to at most `length` characters.
    pub(super) fn truncate(&mut self, length: usize) {
        self.len = self.len.min(length);
    }

    /// Appends the characters of another line.
    pub(super) fn append(&mut self, other: &Self) {
        for (slot, c) in self.chars.iter_mut().skip(self.len).zip(other.chars()) {
            *slot = *c;
            self.len += 1;
        }
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text, CAPACITY);
        Ok(())
    }
}

/// A font size.
#[derive(Clone, Copy)]
pub(super) struct Font(RasterHeight);

impl Font {
    /// Easy to read on a picture of `height` rows without covering much of it.
    pub(super) fn for_height(height: u32) -> Self {
        Self(match height {
            0..600 => RasterHeight::Size16,
            600..900 => RasterHeight::Size20,
            900..1400 => RasterHeight::Size24,
            _ => RasterHeight::Size32,
        })
    }

    pub(super) const LARGE: Self = Self(RasterHeight::Size32);

    pub(super) fn height(self) -> usize {
        self.0.val()
    }

    pub(super) fn width(self) -> usize {
        get_raster_width(FontWeight::Bold, self.0)
    }

    /// Writes `chars` from `x`, `y` (top left) on.
    pub(super) fn write(self, canvas: &mut Canvas<'_, '_>, x: usize, y: usize, chars: &[char], ink: Ink) {
        for (n, c) in chars.iter().enumerate() {
            let glyph = get_raster(*c, FontWeight::Bold, self.0).or_else(|| get_raster('?', FontWeight::Bold, self.0));
            if let Some(glyph) = glyph {
                canvas.glyph(x + n * self.width(), y, glyph.raster(), ink);
            }
        }
    }
}
