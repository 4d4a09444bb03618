//! One colour per class, the same on every box and in every run.

use crate::types::{ColorRange, ColorSpec};

/// Far apart from each other, and bright enough for pictures at night.
const PALETTE: [[u8; 3]; 20] = [
    [57, 211, 83],   // green
    [255, 159, 28],  // orange
    [46, 196, 255],  // sky
    [255, 64, 129],  // pink
    [255, 225, 25],  // yellow
    [160, 102, 255], // violet
    [255, 82, 60],   // red
    [0, 224, 199],   // turquoise
    [240, 98, 230],  // magenta
    [188, 246, 12],  // lime
    [92, 124, 250],  // blue
    [255, 190, 152], // peach
    [128, 222, 160], // mint
    [220, 170, 255], // lavender
    [198, 146, 84],  // tan
    [150, 235, 255], // ice
    [214, 204, 78],  // mustard
    [255, 140, 170], // rose
    [64, 176, 166],  // teal
    [230, 230, 230], // silver
];

/// R, G, B.
pub fn class_color(class_id: u32) -> [u8; 3] {
    PALETTE[class_id as usize % PALETTE.len()]
}

/// Black or white, whichever contrasts more with `plate`.
pub(super) fn text_color(plate: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = plate.map(f32::from);
    if 0.299 * r + 0.587 * g + 0.114 * b > 128.0 { [0; 3] } else { [255; 3] }
}

/// R'G'B' to the Y', Cb, Cr code values of a picture.
pub(super) fn to_ycbcr(rgb: [u8; 3], color: ColorSpec) -> [u8; 3] {
    let (kr, kb) = color.matrix.red_and_blue();
    let [r, g, b] = rgb.map(|v| f32::from(v) / 255.0);
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (cb, cr) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
    let code = |v: f32| v.round().clamp(0.0, 255.0) as u8;
    match color.range {
        ColorRange::Limited => [code(16.0 + 219.0 * y), code(128.0 + 224.0 * cb), code(128.0 + 224.0 * cr)],
        ColorRange::Full => [code(255.0 * y), code(128.0 + 255.0 * cb), code(128.0 + 255.0 * cr)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ColorMatrix;

    #[test]
    fn known_code_values() {
        let spec = |matrix, range| ColorSpec { matrix, range };
        let red = [255, 0, 0];
        assert_eq!(to_ycbcr(red, spec(ColorMatrix::Bt601, ColorRange::Limited)), [81, 90, 240]);
        assert_eq!(to_ycbcr(red, spec(ColorMatrix::Bt601, ColorRange::Full)), [76, 85, 255]);
        assert_eq!(to_ycbcr(red, spec(ColorMatrix::Bt709, ColorRange::Limited)), [63, 102, 240]);
        let white = [255; 3];
        assert_eq!(to_ycbcr(white, spec(ColorMatrix::Bt2020, ColorRange::Limited)), [235, 128, 128]);
        assert_eq!(to_ycbcr([0; 3], spec(ColorMatrix::Bt709, ColorRange::Limited)), [16, 128, 128]);
    }

    #[test]
    fn colours_are_far_apart() {
        for (n, a) in PALETTE.iter().enumerate() {
            for b in &PALETTE[n + 1..] {
                let distance: i32 = a.iter().zip(b).map(|(a, b)| (i32::from(*a) - i32::from(*b)).pow(2)).sum();
                assert!(distance > 40 * 40, "{a:?} and {b:?} look alike");
            }
        }
    }
}
