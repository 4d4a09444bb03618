#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::palette::to_ycbcr;
use super::*;
use crate::types::{ColorMatrix, ColorRange, ColorSpec, PlaneMut};

const SPEC: ColorSpec = ColorSpec { matrix: ColorMatrix::Bt709, range: ColorRange::Limited };

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    I420,
    Nv12,
    Rgb,
}

/// A picture in one of the formats, with guard bytes behind each row and each plane.
struct Picture {
    format: Format,
    size: Size,
    planes: Vec<(Vec<u8>, usize)>,
}

const GUARD: u8 = 0xA5;
const PAD: usize = 7;

impl Picture {
    fn new(format: Format, size: Size, value: u8) -> Self {
        let (w, h) = (size.w as usize, size.h as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let shapes = match format {
            Format::I420 => vec![(w, h), (cw, ch), (cw, ch)],
            Format::Nv12 => vec![(w, h), (cw * 2, ch)],
            Format::Rgb => vec![(w * 3, h)],
        };
        let plane = |(w, h): (usize, usize)| {
            let mut data = vec![GUARD; (w + PAD) * h];
            for row in data.chunks_exact_mut(w + PAD) {
                row[..w].fill(value);
            }
            (data, w + PAD)
        };
        Self { format, size, planes: shapes.into_iter().map(plane).collect() }
    }

    fn view(&mut self) -> ImageViewMut<'_> {
        let (size, color) = (self.size, SPEC);
        let mut planes = self.planes.iter_mut().map(|(data, stride)| PlaneMut { data, stride: *stride });
        let mut next = || planes.next().unwrap();
        match self.format {
            Format::I420 => ImageViewMut::I420 { size, y: next(), u: next(), v: next(), color },
            Format::Nv12 => ImageViewMut::Nv12 { size, y: next(), uv: next(), color },
            Format::Rgb => ImageViewMut::Rgb { size, rgb: next() },
        }
    }

    /// Code values of a pixel.
    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let get = |plane: usize, x: usize, y: usize| self.planes[plane].0[y * self.planes[plane].1 + x];
        match self.format {
            Format::I420 => [get(0, x, y), get(1, x / 2, y / 2), get(2, x / 2, y / 2)],
            Format::Nv12 => [get(0, x, y), get(1, x / 2 * 2, y / 2), get(1, x / 2 * 2 + 1, y / 2)],
            Format::Rgb => [get(0, x * 3, y), get(0, x * 3 + 1, y), get(0, x * 3 + 2, y)],
        }
    }

    fn guards_intact(&self) -> bool {
        self.planes
            .iter()
            .all(|(data, stride)| data.chunks_exact(*stride).all(|row| row[stride - PAD..].iter().all(|b| *b == GUARD)))
    }

    fn colour(&self, class_id: u32) -> [u8; 3] {
        let rgb = class_color(class_id);
        if self.format == Format::Rgb { rgb } else { to_ycbcr(rgb, SPEC) }
    }
}

fn model() -> ModelId {
    let labels = ["person", "bicycle", "Straßenbahn", "汽车"].map(String::from).to_vec();
    ModelId { name: "m".into(), sha256: String::new(), labels }
}

fn detection(class_id: u32, x1: f32, y1: f32, x2: f32, y2: f32) -> Detection {
    Detection { class_id, score: 0.87, bbox: PixelBox::new(x1, y1, x2, y2) }
}

const FORMATS: [Format; 3] = [Format::I420, Format::Nv12, Format::Rgb];

#[test]
fn the_outline_has_the_class_colour_and_the_inside_is_unchanged() {
    for format in FORMATS {
        for class_id in [0, 1, 6, 10] {
            let mut picture = Picture::new(format, Size::new(320, 240), 77);
            draw(&mut picture.view(), &[detection(class_id, 100.0, 80.0, 200.0, 180.0)], &model());
            let colour = picture.colour(class_id);
            for n in 80..180 {
                assert_eq!(picture.at(100, n), colour, "{format:?} left");
                assert_eq!(picture.at(199, n), colour, "{format:?} right");
            }
            for n in 100..200 {
                assert_eq!(picture.at(n, 81), colour, "{format:?} top");
                assert_eq!(picture.at(n, 179), colour, "{format:?} bottom");
            }
            for y in 82..178 {
                for x in 102..198 {
                    assert_eq!(picture.at(x, y), [77; 3], "{format:?} inside at {x}, {y}");
                }
            }
            for y in 80..240 {
                for x in (0..100).chain(200..320) {
                    assert_eq!(picture.at(x, y), [77; 3], "{format:?} outside at {x}, {y}");
                }
            }
            assert!(picture.guards_intact());
        }
    }
}

#[test]
fn a_box_at_the_edge_is_visible_on_all_sides() {
    for format in FORMATS {
        for size in [Size::new(320, 240), Size::new(321, 241)] {
            let (w, h) = (size.w as f32, size.h as f32);
            for bbox in [(0.0, 0.0, w, h), (-50.0, -9.5, w + 80.0, h + 0.5)] {
                let mut picture = Picture::new(format, size, 77);
                draw(&mut picture.view(), &[detection(2, bbox.0, bbox.1, bbox.2, bbox.3)], &model());
                let colour = picture.colour(2);
                let (right, bottom) = (size.w as usize - 1, size.h as usize - 1);
                // The plate covers a part of the top left corner in the same colour.
                for (x, y) in [(0, 120), (right, 120), (160, bottom), (300, 0), (right, bottom), (0, 0)] {
                    assert_eq!(picture.at(x, y), colour, "{format:?} {size} at {x}, {y}");
                }
                assert_eq!(picture.at(160, 120), [77; 3]);
                assert!(picture.guards_intact());
            }
        }
    }
}

#[test]
fn the_label_is_above_the_box_and_inside_the_picture() {
    let changed = |bbox: [f32; 4]| {
        let mut picture = Picture::new(Format::Rgb, Size::new(320, 240), 77);
        draw(&mut picture.view(), &[detection(0, bbox[0], bbox[1], bbox[2], bbox[3])], &model());
        assert!(picture.guards_intact());
        let pixels = (0..240).flat_map(|y| (0..320).map(move |x| (x, y)));
        let inked: Vec<_> = pixels.filter(|(x, y)| picture.at(*x, *y) == [0; 3]).collect();
        let extent =
            |f: fn(&(usize, usize)) -> usize| (inked.iter().map(f).min().unwrap(), inked.iter().map(f).max().unwrap());
        (extent(|p| p.0), extent(|p| p.1))
    };
    // Black text on green: above the box, below its top when there is no room, moved left at the right edge.
    let ((left, _), (_, bottom)) = changed([100.0, 80.0, 200.0, 180.0]);
    assert!(left >= 100 && bottom < 80);
    let (_, (top, _)) = changed([100.0, 2.0, 200.0, 180.0]);
    assert!(top >= 2);
    let ((_, right), _) = changed([310.0, 80.0, 320.0, 180.0]);
    assert!(right < 320);
}

#[test]
fn unknown_characters_and_classes_get_a_substitute() {
    let text = |class_id, room| -> String {
        caption(&detection(class_id, 0.0, 0.0, 1.0, 1.0), &model(), room).chars().iter().collect()
    };
    let check = |class_id, room, want: &str| assert_eq!(text(class_id, room), want);
    check(0, 40, "person 0.87");
    check(2, 40, "Straßenbahn 0.87");
    check(3, 40, "?? 0.87");
    check(77, 40, "class77 0.87");
    check(0, 8, "per 0.87");
    check(0, 5, " 0.87");
    check(0, 3, "");
}

#[test]
fn short_planes_lose_pixels_only() {
    for format in FORMATS {
        let mut picture = Picture::new(format, Size::new(64, 48), 77);
        picture.size = Size::new(6400, 4800);
        draw(&mut picture.view(), &[detection(0, 0.0, 0.0, 6400.0, 4800.0)], &model());
        draw(&mut picture.view(), &[detection(0, 1.0, 30.0, 60.0, 40.0)], &model());
    }
}

fn coordinate() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -40.0..200.0f32,
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0]),
    ]
}

proptest! {
    #[test]
    fn any_box_on_any_picture_stays_inside(
        w in 1u32..140, h in 1u32..140,
        boxes in prop::collection::vec((any::<u32>(), prop::num::f32::ANY, prop::array::uniform4(coordinate())), 0..6),
    ) {
        let detections: Vec<_> = boxes
            .iter()
            .map(|(class_id, score, b)| {
                Detection { class_id: *class_id, score: *score, bbox: PixelBox::new(b[0], b[1], b[2], b[3]) }
            })
            .collect();
        for format in FORMATS {
            let mut picture = Picture::new(format, Size::new(w, h), 77);
            draw(&mut picture.view(), &detections, &model());
            prop_assert!(picture.guards_intact());
            super::super::slate(&mut picture.view(), "NO SIGNAL", "gate: connecting");
            prop_assert!(picture.guards_intact());
        }
    }
}

/// Writes what a viewer would see to `OCELLI_DRAW_DIR`, to be looked at; without it only checks that text was drawn.
#[test]
fn drawn_picture_for_inspection() {
    for (size, name) in
        [(Size::new(640, 360), "small"), (Size::new(1280, 720), "medium"), (Size::new(1920, 1080), "large")]
    {
        let scale = size.w as f32 / 640.0;
        let boxed = |class_id, score, b: [f32; 4]| {
            let b = b.map(|v| v * scale);
            Detection { class_id, score, bbox: PixelBox::new(b[0], b[1], b[2], b[3]) }
        };
        let detections = [
            boxed(0, 0.93, [40.0, 60.0, 110.0, 240.0]),
            boxed(0, 0.71, [90.0, 70.0, 150.0, 235.0]),
            boxed(1, 0.55, [200.0, 0.0, 300.0, 90.0]),
            boxed(2, 0.42, [560.0, 200.0, 640.0, 360.0]),
            boxed(3, 0.99, [320.0, 150.0, 480.0, 330.0]),
            boxed(10, 0.31, [0.0, 250.0, 60.0, 360.0]),
            boxed(6, 0.31, [330.0, 40.0, 346.0, 52.0]),
        ];
        let mut picture = Picture::new(Format::I420, size, 128);
        for y in 0..size.h as usize {
            for x in 0..size.w as usize {
                picture.planes[0].0[y * (size.w as usize + PAD) + x] = (40 + (x / 7 + y / 5) % 120) as u8;
            }
        }
        draw(&mut picture.view(), &detections, &model());
        save(&picture, name);
        super::super::slate(&mut picture.view(), "NO SIGNAL", "gate: connecting");
        save(&picture, &format!("slate-{name}"));
        let bright = (0..size.h as usize).any(|y| (0..size.w as usize).any(|x| picture.at(x, y)[0] > 200));
        assert!(bright, "the slate has white text");
    }
}

fn save(picture: &Picture, name: &str) {
    let Some(folder) = std::env::var_os("OCELLI_DRAW_DIR") else { return };
    let rgb = image::RgbImage::from_fn(picture.size.w, picture.size.h, |x, y| {
        let [y, u, v] = picture.at(x as usize, y as usize).map(f32::from);
        let (y, u, v) = ((y - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0);
        let rgb = [y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u];
        image::Rgb(rgb.map(|c| (c * 255.0).round().clamp(0.0, 255.0) as u8))
    });
    rgb.save(std::path::Path::new(&folder).join(format!("{name}.png"))).unwrap();
}
