//! The fast way against a plain one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::model::{Batch, ChannelOrder, Elem, InputSpec, InputTensor};
use crate::types::{ColorMatrix, ColorRange, ColorSpec, ImageView, Letterbox, Padding, Plane, Size};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    I420,
    Nv12,
    Rgb,
}

/// A picture of noise with padded rows.
#[derive(Debug)]
struct Picture {
    layout: Layout,
    size: Size,
    color: ColorSpec,
    planes: Vec<(Vec<u8>, usize)>,
}

impl Picture {
    fn noise(layout: Layout, size: Size, color: ColorSpec, padding: usize, seed: u64) -> Self {
        let (w, h) = (size.w as usize, size.h as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let extents: &[(usize, usize)] = match layout {
            Layout::I420 => &[(w, h), (cw, ch), (cw, ch)],
            Layout::Nv12 => &[(w, h), (cw * 2, ch)],
            Layout::Rgb => &[(w * 3, h)],
        };
        let mut state = seed | 1;
        let mut noise = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        let planes = extents
            .iter()
            .map(|(width, height)| {
                let stride = width + padding;
                // The last row has no padding behind it: decoders end their planes there.
                ((0..stride * (height - 1) + width).map(|_| noise()).collect(), stride)
            })
            .collect();
        Self { layout, size, color, planes }
    }

    fn view(&self) -> ImageView<'_> {
        let plane = |n: usize| Plane { data: &self.planes[n].0, stride: self.planes[n].1 };
        let (size, color) = (self.size, self.color);
        match self.layout {
            Layout::I420 => ImageView::I420 { size, y: plane(0), u: plane(1), v: plane(2), color },
            Layout::Nv12 => ImageView::Nv12 { size, y: plane(0), uv: plane(1), color },
            Layout::Rgb => ImageView::Rgb { size, rgb: plane(0) },
        }
    }

    /// Sample `channel` of `channels` interleaved ones in plane `n`, bilinear at `x`, `y`, edges repeated.
    fn at(&self, n: usize, channels: usize, channel: usize, x: f64, y: f64) -> f64 {
        let chroma = self.layout != Layout::Rgb && n > 0;
        let (w, h) = (self.size.w as usize, self.size.h as usize);
        let (w, h) = if chroma { (w.div_ceil(2), h.div_ceil(2)) } else { (w, h) };
        let x = x.clamp(0.0, (w - 1) as f64);
        let y = y.clamp(0.0, (h - 1) as f64);
        let (x0, y0) = (x.floor() as usize, y.floor() as usize);
        let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
        let (fx, fy) = (x - x0 as f64, y - y0 as f64);
        let get = |x: usize, y: usize| f64::from(self.planes[n].0[y * self.planes[n].1 + x * channels + channel]);
        let upper = get(x0, y0) * (1.0 - fx) + get(x1, y0) * fx;
        let lower = get(x0, y1) * (1.0 - fx) + get(x1, y1) * fx;
        upper * (1.0 - fy) + lower * fy
    }

    /// R, G, B 0 ..= 255 at output pixel `x`, `y` of the scaled picture.
    fn rgb(&self, scaled: Size, x: u32, y: u32) -> [f64; 3] {
        let luma =
            |n: u32, source: u32, scaled: u32| (f64::from(n) + 0.5) * f64::from(source) / f64::from(scaled) - 0.5;
        let (lx, ly) = (luma(x, self.size.w, scaled.w), luma(y, self.size.h, scaled.h));
        // Chroma sample k covers luma samples 2k and 2k + 1, so its centre lies at 2k + 0.5.
        let (cx, cy) = ((lx - 0.5) / 2.0, (ly - 0.5) / 2.0);
        let (luma, u, v) = match self.layout {
            Layout::I420 => (self.at(0, 1, 0, lx, ly), self.at(1, 1, 0, cx, cy), self.at(2, 1, 0, cx, cy)),
            Layout::Nv12 => (self.at(0, 1, 0, lx, ly), self.at(1, 2, 0, cx, cy), self.at(1, 2, 1, cx, cy)),
            Layout::Rgb => return [0, 1, 2].map(|c| self.at(0, 3, c, lx, ly)),
        };
        let (kr, kb) = match self.color.matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
            ColorMatrix::Bt2020 => (0.2627, 0.0593),
        };
        let (luma, cb, cr) = match self.color.range {
            ColorRange::Limited => ((luma - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
            ColorRange::Full => (luma / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
        };
        let r = luma + 2.0 * (1.0 - kr) * cr;
        let b = luma + 2.0 * (1.0 - kb) * cb;
        let g = (luma - kr * r - kb * b) / (1.0 - kr - kb);
        [r, g, b].map(|c| (c * 255.0).clamp(0.0, 255.0))
    }
}

fn input(size: Size, order: ChannelOrder, scale: f32, padding: Padding) -> InputSpec {
    InputSpec {
        name: "images".into(),
        size,
        elem: Elem::Float32,
        channels_last: false,
        order,
        scale,
        padding,
        pad_value: 114,
        size_input: None,
        batch: Batch::ONE,
    }
}

/// Compares every element of the tensor with the plain way, within `tolerance` of 255 levels.
#[track_caller]
fn compare(picture: &Picture, spec: &InputSpec, tensor: &[f32], letterbox: &Letterbox, tolerance: f64) {
    let (w, h) = (spec.size.w, spec.size.h);
    // Stills follow OpenCV: it cuts two quarters of a level, rounds to a whole one, and its weights have 11 bits.
    let tolerance = if picture.layout == Layout::Rgb { 1.15 } else { tolerance };
    for y in 0..h {
        for x in 0..w {
            let inside = (letterbox.left..letterbox.left + letterbox.scaled.w).contains(&x)
                && (letterbox.top..letterbox.top + letterbox.scaled.h).contains(&y);
            let mut want = [114.0; 3];
            if inside {
                want = picture.rgb(letterbox.scaled, x - letterbox.left, y - letterbox.top);
            }
            if spec.order == ChannelOrder::Bgr {
                want.reverse();
            }
            for (plane, want) in want.into_iter().enumerate() {
                let got = f64::from(tensor[(plane * h as usize + y as usize) * w as usize + x as usize] * spec.scale);
                assert!(
                    (got - want).abs() <= tolerance,
                    "plane {plane} at {x},{y}: {got}, expected {want}; {letterbox:?}"
                );
            }
        }
    }
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::I420), Just(Layout::Nv12), Just(Layout::Rgb)]
}

fn colors() -> impl Strategy<Value = ColorSpec> {
    let matrix = prop_oneof![Just(ColorMatrix::Bt601), Just(ColorMatrix::Bt709), Just(ColorMatrix::Bt2020)];
    (matrix, any::<bool>()).prop_map(|(matrix, full)| ColorSpec {
        matrix,
        range: if full { ColorRange::Full } else { ColorRange::Limited },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn the_fast_way_equals_the_plain_one(
        layout in layouts(),
        color in colors(),
        (w, h) in (1_u32..=70, 1_u32..=70),
        (tw, th) in (1_u32..=4, 1_u32..=4),
        row_padding in 0_usize..20,
        bgr: bool,
        corner: bool,
        unit: bool,
        seed: u64,
    ) {
        let picture = Picture::noise(layout, Size::new(w, h), color, row_padding, seed);
        let order = if bgr { ChannelOrder::Bgr } else { ChannelOrder::Rgb };
        let padding = if corner { Padding::TopLeft } else { Padding::Centered };
        let spec = input(Size::new(tw * 16, th * 16), order, if unit { 1.0 } else { 255.0 }, padding);
        let mut tensor = vec![f32::NAN; 3 * (tw * th * 256) as usize];
        let letterbox = Preprocessor::new(&spec).run(&picture.view(), &mut tensor).unwrap();
        compare(&picture, &spec, &tensor, &letterbox, 0.02);
    }

    #[test]
    fn stills_equal_opencv((w, h) in (1_u32..=90, 1_u32..=90), seed: u64) {
        let picture = Picture::noise(Layout::Rgb, Size::new(w, h), ColorSpec::default(), 0, seed);
        let spec = input(Size::new(64, 64), ChannelOrder::Rgb, 255.0, Padding::Centered);
        let mut tensor = vec![0.0; 3 * 64 * 64];
        let l = Preprocessor::new(&spec).run(&picture.view(), &mut tensor).unwrap();
        for y in 0..l.scaled.h {
            for x in 0..l.scaled.w {
                for c in 0..3 {
                    let at = (c * 64 + (y + l.top) as usize) * 64 + (x + l.left) as usize;
                    let got = tensor[at] * 255.0;
                    let want = opencv(&picture, l.scaled, x, y, c);
                    prop_assert!((got - want as f32).abs() < 0.01, "{x},{y},{c}: {got}, OpenCV {want}");
                }
            }
        }
    }
}

/// One sample of OpenCV's 8-bit `INTER_LINEAR`: 11-bit weights, rounding as its own code does.
fn opencv(picture: &Picture, scaled: Size, x: u32, y: u32, c: usize) -> i32 {
    let tap = |n: u32, source: u32, scaled: u32| {
        let at = ((f64::from(n) + 0.5) * (1.0 / (f64::from(scaled) / f64::from(source))) - 0.5) as f32;
        let (mut first, mut part) = (at.floor() as i64, at - at.floor());
        if first < 0 {
            (first, part) = (0, 0.0);
        }
        if first >= i64::from(source) - 1 {
            (first, part) = (i64::from(source) - 1, 0.0);
        }
        let second = (first + 1).min(i64::from(source) - 1);
        let weights = [((1.0 - part) * 2048.0).round_ties_even() as i32, (part * 2048.0).round_ties_even() as i32];
        ([first as usize, second as usize], weights)
    };
    let (xs, wx) = tap(x, picture.size.w, scaled.w);
    let (ys, wy) = tap(y, picture.size.h, scaled.h);
    let (data, stride) = &picture.planes[0];
    let row = |y: usize| (0..2).map(|n| i32::from(data[y * stride + xs[n] * 3 + c]) * wx[n]).sum::<i32>();
    let part = |n: usize| (wy[n] * (row(ys[n]) >> 4)) >> 16;
    (part(0) + part(1) + 2) >> 2
}

#[test]
fn real_sizes_with_the_same_tables() {
    let spec = input(Size::new(640, 640), ChannelOrder::Rgb, 255.0, Padding::Centered);
    let mut preprocessor = Preprocessor::new(&spec);
    let mut tensor = vec![f32::NAN; 3 * 640 * 640];
    let color = ColorSpec { matrix: ColorMatrix::Bt709, range: ColorRange::Limited };
    // Full HD hits whole samples (ratio 3), the others do not; then back again, so that tables are rebuilt. 8K is last.
    for (layout, w, h) in [
        (Layout::I420, 1920, 1080),
        (Layout::Nv12, 1280, 720),
        (Layout::I420, 641, 479),
        (Layout::Rgb, 810, 1080),
        (Layout::Nv12, 1920, 1080),
        (Layout::I420, 1, 1),
        (Layout::Nv12, 1, 3),
        (Layout::I420, 7680, 4320),
    ] {
        let picture = Picture::noise(layout, Size::new(w, h), color, 7, u64::from(w));
        let letterbox = preprocessor.run(&picture.view(), &mut tensor).unwrap();
        assert_eq!(letterbox, Letterbox::new(Size::new(w, h), spec.size, spec.padding));
        compare(&picture, &spec, &tensor, &letterbox, 0.05);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let spec = input(Size::new(32, 32), ChannelOrder::Rgb, 255.0, Padding::Centered);
    let mut preprocessor = Preprocessor::new(&spec);
    let mut tensor = vec![0.0; 3 * 32 * 32];
    let color = ColorSpec::default();
    let data = [0_u8; 64];
    let plane = |len: usize, stride: usize| Plane { data: &data[..len], stride };
    let size = Size::new(8, 8);
    let fine = ImageView::I420 { size, y: plane(64, 8), u: plane(16, 4), v: plane(16, 4), color };
    assert!(preprocessor.run(&fine, &mut tensor).is_ok());
    assert_eq!(preprocessor.run(&fine, &mut tensor[1..]), Err(PreprocessError::Tensor { have: 3071, need: 3072 }));
    for view in [
        ImageView::I420 { size, y: plane(63, 8), u: plane(16, 4), v: plane(16, 4), color },
        ImageView::I420 { size, y: plane(64, 7), u: plane(16, 4), v: plane(16, 4), color },
        ImageView::I420 { size, y: plane(64, 8), u: plane(15, 4), v: plane(16, 4), color },
        ImageView::I420 { size, y: plane(64, 8), u: plane(16, 4), v: plane(0, 4), color },
        ImageView::Nv12 { size, y: plane(64, 8), uv: plane(31, 8), color },
        ImageView::Nv12 { size, y: plane(64, usize::MAX), uv: plane(32, 8), color },
        ImageView::Rgb { size, rgb: plane(64, 24) },
    ] {
        assert!(matches!(preprocessor.run(&view, &mut tensor), Err(PreprocessError::Plane { .. })), "{view:?}");
    }
    for size in [Size::new(0, 8), Size::new(8, 0), Size::new(40_000, 1)] {
        let view = ImageView::Rgb { size, rgb: plane(64, 24) };
        assert_eq!(preprocessor.run(&view, &mut tensor), Err(PreprocessError::Size(size)));
    }
}

#[test]
fn bytes_are_rounded_f32_in_the_models_layout() {
    let target = Size::new(40, 32);
    let color = ColorSpec { matrix: ColorMatrix::Bt709, range: ColorRange::Limited };
    for layout in [Layout::I420, Layout::Nv12, Layout::Rgb] {
        let picture = Picture::noise(layout, Size::new(61, 37), color, 5, 7);
        for order in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
            let planes = InputSpec { elem: Elem::Uint8, ..input(target, order, 1.0, Padding::Centered) };
            let mut floats = vec![0.0; 3 * 40 * 32];
            let letterbox = Preprocessor::new(&planes).run(&picture.view(), &mut floats).unwrap();
            for channels_last in [false, true] {
                let spec = InputSpec { channels_last, ..planes.clone() };
                let mut tensor = InputTensor::new(&spec);
                assert_eq!(Preprocessor::new(&spec).fill(&picture.view(), &mut tensor), Ok(letterbox));
                let InputTensor::Bytes(bytes) = &tensor else { panic!("a model of bytes takes bytes") };
                for (n, byte) in bytes.iter().enumerate() {
                    let at = if channels_last { n % 3 * 40 * 32 + n / 3 } else { n };
                    assert_eq!(*byte, floats[at].round() as u8, "number {n} of {order:?}, {channels_last}");
                }
            }
        }
    }
}
