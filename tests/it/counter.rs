//! Reads the frame number that `ocelli simulate --counter` paints into each frame.

use ocelli::source::write_counter;
use ocelli::types::{ColorSpec, ImageView, ImageViewMut, Plane, PlaneMut, Size};

/// Side of one cell in pixels.
const CELL: usize = 8;
/// Two marks and sixteen bits.
const CELLS: usize = 18;

/// The number painted by `write_counter`; `None` when a cell is neither clearly black nor clearly white.
pub fn read_counter(view: &ImageView<'_>) -> Option<u16> {
    let size = view.size();
    let (ImageView::I420 { y, .. } | ImageView::Nv12 { y, .. }) = view else {
        return None;
    };
    let top = first_row(size.w, size.h)?;
    let mut bits = 0u32;
    for cell in 0..CELLS {
        // The inner 4×4 pixels: lossy coding blurs the border.
        let mut sum = 0u32;
        for row in top + 2..top + 6 {
            let start = row * y.stride + cell * CELL + 2;
            sum += y.data.get(start..start + 4)?.iter().map(|v| u32::from(*v)).sum::<u32>();
        }
        bits = bits << 1
            | match sum / 16 {
                0..=90 => 0,
                160.. => 1,
                _ => return None,
            };
    }
    (bits >> 16 == 0b10).then_some(bits as u16)
}

fn first_row(w: u32, h: u32) -> Option<usize> {
    (w as usize >= CELL * CELLS).then(|| (h as usize).checked_sub(CELL)).flatten()
}

const STRIDE: usize = 160;
const SIZE: Size = Size::new(150, 33);

fn write(luma: &mut [u8], size: Size, number: u16) -> bool {
    let (mut u, mut v) = ([], []);
    let mut view = ImageViewMut::I420 {
        size,
        y: PlaneMut { data: luma, stride: STRIDE },
        u: PlaneMut { data: &mut u, stride: 0 },
        v: PlaneMut { data: &mut v, stride: 0 },
        color: ColorSpec::default(),
    };
    write_counter(&mut view, number)
}

fn read(luma: &[u8], size: Size) -> Option<u16> {
    let uv = Plane { data: &[], stride: 0 };
    read_counter(&ImageView::Nv12 { size, y: Plane { data: luma, stride: STRIDE }, uv, color: ColorSpec::default() })
}

#[test]
fn every_number_comes_back_and_is_painted_in_the_corner() {
    let mut luma = vec![99; STRIDE * 33];
    for number in 0..=u16::MAX {
        assert!(write(&mut luma, SIZE, number));
        assert_eq!(read(&luma, SIZE), Some(number));
    }
    assert!(luma[..25 * STRIDE].iter().all(|v| *v == 99), "rows above the cells are untouched");
    assert_eq!(luma[25 * STRIDE..][..18], [[235; 8], [16; 8]].concat().into_iter().chain([235; 2]).collect::<Vec<_>>());
}

#[test]
fn noise_is_tolerated_and_a_picture_without_a_counter_is_refused() {
    let mut luma = vec![99; STRIDE * 33];
    assert_eq!(read(&luma, SIZE), None);
    assert!(write(&mut luma, SIZE, 0xA5C3));
    for (n, v) in luma.iter_mut().enumerate() {
        *v = v.saturating_add((n * 37 % 40) as u8).saturating_sub(20);
    }
    assert_eq!(read(&luma, SIZE), Some(0xA5C3));
    assert_eq!(read(&[16; STRIDE * 33], SIZE), None);
    assert_eq!(read(&[235; STRIDE * 33], SIZE), None);
}

#[test]
fn small_pictures_and_short_planes_are_left_alone() {
    let mut luma = vec![0; STRIDE * 33];
    for size in [Size::new(1, 1), Size::new(143, 33), Size::new(150, 7)] {
        assert!(!write(&mut luma, size, 1));
        assert_eq!(read(&luma, size), None);
    }
    assert!(!write(&mut [0; 10], SIZE, 1));
    assert_eq!(read(&[0; 10], SIZE), None);
}
