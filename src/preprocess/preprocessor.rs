//! The letterbox.

use super::axis::{Axis, LANES, groups};
use super::canvas::{Bytes, Canvas, Floats, Pixels, fill_border, planes};
use super::planes::{Planes, PreprocessError, Rows};
use super::still::Still;
use crate::model::{ChannelOrder, InputSpec, InputTensor};
use crate::types::{ColorRange, ColorSpec, ImageView, Letterbox, Padding, Size};

/// Converts pictures to a model's input, with tables for the last source size. One per camera.
#[derive(Debug)]
pub struct Preprocessor {
    target: Size,
    order: ChannelOrder,
    channels_last: bool,
    padding: Padding,
    /// Factor from 0 … 255 to the model's range.
    gain: f32,
    border: f32,
    letterbox: Option<Letterbox>,
    luma: [Axis; 2],
    chroma: [Axis; 2],
    /// One source line, interpolated between two rows.
    line: Vec<f32>,
    /// One output line of each plane.
    samples: [Vec<[f32; LANES]>; 3],
    /// One output line of red, green and blue, for models that take bytes.
    lines: [Vec<f32>; 3],
    still: Still,
}

impl Preprocessor {
    pub fn new(input: &InputSpec) -> Self {
        Self {
            target: input.size,
            order: input.order,
            channels_last: input.channels_last,
            padding: input.padding,
            gain: 1.0 / input.scale,
            border: input.border(),
            letterbox: None,
            luma: Default::default(),
            chroma: Default::default(),
            line: Vec::new(),
            samples: Default::default(),
            lines: Default::default(),
            still: Still::default(),
        }
    }

    /// Letterboxes `image` into `tensor` (`[3, h, w]`, every element is written).
    ///
    /// Scales each plane with two-tap bilinear interpolation at half-pixel centres, then converts colour per output pixel
    /// by the picture's own matrix and range. Allocates only when the source size changes.
    pub fn run(&mut self, image: &ImageView<'_>, tensor: &mut [f32]) -> Result<Letterbox, PreprocessError> {
        self.check(tensor.len())?;
        let source = Planes::new(image)?;
        let letterbox = self.prepare(image.size());
        let mut canvas = Floats { rgb: planes(tensor, self.order), letterbox };
        // Buffers rotate between camera and engine: this one may hold another border or none.
        canvas.rgb.iter_mut().for_each(|plane| fill_border(plane, &letterbox, 1, self.border));
        self.draw(&source, image, &letterbox, &mut canvas);
        Ok(letterbox)
    }

    /// As [`Self::run`], but into bytes in the model's layout, rounded to nearest.
    pub fn run_bytes(&mut self, image: &ImageView<'_>, tensor: &mut [u8]) -> Result<Letterbox, PreprocessError> {
        self.check(tensor.len())?;
        let source = Planes::new(image)?;
        let letterbox = self.prepare(image.size());
        let border = self.border.round() as u8;
        let mut lines = std::mem::take(&mut self.lines);
        lines.iter_mut().for_each(|line| line.resize(letterbox.scaled.w as usize, 0.0));
        if self.channels_last {
            fill_border(tensor, &letterbox, 3, border);
            let mut canvas = Pixels { tensor, order: self.order, lines, letterbox };
            self.draw(&source, image, &letterbox, &mut canvas);
            self.lines = canvas.lines;
        } else {
            let mut rgb = planes(tensor, self.order);
            rgb.iter_mut().for_each(|plane| fill_border(plane, &letterbox, 1, border));
            let mut canvas = Bytes { rgb, lines, letterbox };
            self.draw(&source, image, &letterbox, &mut canvas);
            self.lines = canvas.lines;
        }
        Ok(letterbox)
    }

    /// [`Self::run`] or [`Self::run_bytes`], by the type of `tensor`.
    pub fn fill(&mut self, image: &ImageView<'_>, tensor: &mut InputTensor) -> Result<Letterbox, PreprocessError> {
        match tensor {
            InputTensor::Planes(planes) => self.run(image, planes),
            InputTensor::Bytes(bytes) => self.run_bytes(image, bytes),
        }
    }

    fn check(&self, have: usize) -> Result<(), PreprocessError> {
        let need = 3 * self.target.w as usize * self.target.h as usize;
        if have == need { Ok(()) } else { Err(PreprocessError::Tensor { have, need }) }
    }

    fn draw(&mut self, planes: &Planes<'_>, image: &ImageView<'_>, letterbox: &Letterbox, canvas: &mut impl Canvas) {
        match (planes, image) {
            (Planes::I420(rows), ImageView::I420 { color, .. }) => self.i420(rows, *color, letterbox, canvas),
            (Planes::Nv12(rows), ImageView::Nv12 { color, .. }) => self.nv12(rows, *color, letterbox, canvas),
            (Planes::Rgb(rows), _) => self.rgb(rows, letterbox, canvas),
            (Planes::I420(_) | Planes::Nv12(_), _) => {}
        }
    }

    fn prepare(&mut self, source: Size) -> Letterbox {
        if let Some(letterbox) = self.letterbox.filter(|l| l.source == source) {
            return letterbox;
        }
        let letterbox = Letterbox::new(source, self.target, self.padding);
        let scaled = letterbox.scaled;
        self.luma[0].build(scaled.w, source.w, source.w, 1.0);
        self.luma[1].build(scaled.h, source.h, source.h, 1.0);
        self.chroma[0].build(scaled.w, source.w, source.w.div_ceil(2), 2.0);
        self.chroma[1].build(scaled.h, source.h, source.h.div_ceil(2), 2.0);
        // At most three channels, and one pixel after the last.
        self.line.resize((source.w as usize + 1) * 3, 0.0);
        for samples in &mut self.samples {
            samples.resize(groups(scaled.w), [0.0; LANES]);
        }
        self.letterbox = Some(letterbox);
        letterbox
    }

    fn i420(&mut self, [y, u, v]: &[Rows<'_>; 3], color: ColorSpec, letterbox: &Letterbox, canvas: &mut impl Canvas) {
        let convert = Convert::new(color, self.gain);
        let [ys, us, vs] = &mut self.samples;
        for n in 0..letterbox.scaled.h as usize {
            plane(y, n, &self.luma, &mut self.line, [ys]);
            plane(u, n, &self.chroma, &mut self.line, [us]);
            plane(v, n, &self.chroma, &mut self.line, [vs]);
            canvas.line(n, |rgb| convert.line(ys, us, vs, rgb));
        }
    }

    fn nv12(&mut self, [y, uv]: &[Rows<'_>; 2], color: ColorSpec, letterbox: &Letterbox, canvas: &mut impl Canvas) {
        let convert = Convert::new(color, self.gain);
        let [ys, us, vs] = &mut self.samples;
        for n in 0..letterbox.scaled.h as usize {
            plane(y, n, &self.luma, &mut self.line, [ys]);
            plane(uv, n, &self.chroma, &mut self.line, [us, vs]);
            canvas.line(n, |rgb| convert.line(ys, us, vs, rgb));
        }
    }

    fn rgb(&mut self, rows: &Rows<'_>, letterbox: &Letterbox, canvas: &mut impl Canvas) {
        let gain = self.gain;
        self.still.run(rows, letterbox, |n, line| {
            canvas.line(n, |[red, green, blue]| {
                for (((r, g), b), pixel) in red.iter_mut().zip(green).zip(blue).zip(line.chunks_exact(3)) {
                    (*r, *g, *b) = (pixel[0] as f32 * gain, pixel[1] as f32 * gain, pixel[2] as f32 * gain);
                }
            });
        });
    }
}

/// One output line of each of `C` interleaved channels: first between two rows, which vectorises, then along them.
fn plane<const C: usize>(
    rows: &Rows<'_>,
    n: usize,
    [x, y]: &[Axis; 2],
    line: &mut [f32],
    out: [&mut Vec<[f32; LANES]>; C],
) {
    let (upper, weight) = y.tap(n);
    let top = rows.row(upper);
    let out = out.into_iter().enumerate();
    if weight == 0.0 && x.exact() {
        out.for_each(|(channel, out)| x.pick::<C>(top, channel, out));
        return;
    }
    let line = &mut line[..top.len() + C];
    if weight == 0.0 {
        for (mid, a) in line.iter_mut().zip(top) {
            *mid = f32::from(*a);
        }
    } else {
        for ((mid, a), b) in line.iter_mut().zip(top).zip(rows.row(upper + 1)) {
            let (a, b) = (f32::from(*a), f32::from(*b));
            *mid = a + (b - a) * weight;
        }
    }
    out.for_each(|(channel, out)| x.interpolate::<C>(line, channel, out));
}

/// Y'CbCr to the model's range with one multiplication per coefficient: gain and offsets are included.
struct Convert {
    luma: f32,
    red_v: f32,
    green_u: f32,
    green_v: f32,
    blue_u: f32,
    offsets: [f32; 3],
    white: f32,
}

impl Convert {
    fn new(color: ColorSpec, gain: f32) -> Self {
        let (kr, kb) = color.matrix.red_and_blue();
        let kg = 1.0 - kr - kb;
        let (luma, chroma, black) = match color.range {
            ColorRange::Limited => (255.0 / 219.0 * gain, 255.0 / 224.0 * gain, 16.0),
            ColorRange::Full => (gain, gain, 0.0),
        };
        let (red_v, blue_u) = (2.0 * (1.0 - kr) * chroma, 2.0 * (1.0 - kb) * chroma);
        let (green_u, green_v) = (-blue_u * kb / kg, -red_v * kr / kg);
        let base = -luma * black;
        let offsets = [base - 128.0 * red_v, base - 128.0 * (green_u + green_v), base - 128.0 * blue_u];
        Self { luma, red_v, green_u, green_v, blue_u, offsets, white: 255.0 * gain }
    }

    fn line(&self, y: &[[f32; LANES]], u: &[[f32; LANES]], v: &[[f32; LANES]], [red, green, blue]: [&mut [f32]; 3]) {
        let white = self.white;
        // `f32::clamp` and `max` handle NaN, which costs instructions; there is none here.
        let clamp = |x: f32| {
            let x = if x > 0.0 { x } else { 0.0 };
            if x < white { x } else { white }
        };
        let [r0, g0, b0] = self.offsets;
        let inputs = y.as_flattened().iter().zip(u.as_flattened()).zip(v.as_flattened());
        let outputs = red.iter_mut().zip(green).zip(blue);
        for (((r, g), b), ((y, u), v)) in outputs.zip(inputs) {
            let luma = self.luma * y;
            *r = clamp(luma + self.red_v * v + r0);
            *g = clamp(luma + self.green_u * u + self.green_v * v + g0);
            *b = clamp(luma + self.blue_u * u + b0);
        }
    }
}
