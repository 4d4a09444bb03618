//! Preprocessing, decoding and NMS allocate nothing once they are warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use ocelli::model::{Candidate, DecodeParams, ModelSpec, Nms, decode};
use ocelli::preprocess::Preprocessor;
use ocelli::types::{ColorSpec, ImageView, Plane, Size};

use crate::common::{shipped_model, test_data};

/// Counts the allocations of the current thread.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // The counter of a thread that is ending is gone; no test measures there.
    let _ = ASKED.try_with(|n| n.set(n.get() + 1));
}

#[allow(unsafe_code)] // a counting allocator is the only way to see allocations, and it only passes on
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on unchanged, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: see `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: see `alloc`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: see `alloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ASKED.with(Cell::get);
    run();
    ASKED.with(Cell::get) - before
}

/// A model's output with `boxes` boxes of many sizes, places, classes and scores, the rest below the threshold.
fn output(spec: &ModelSpec, boxes: usize, seed: usize) -> Vec<f32> {
    let columns = 5 + spec.output.classes;
    let width = spec.input.size.w as f32;
    let mut output = vec![0.0; spec.output.len()];
    for (n, row) in output.chunks_exact_mut(columns).take(boxes).enumerate() {
        let at = |k: usize| ((n * 7919 + seed * 104_729) * k % 6007) as f32 / 6007.0;
        row[..5].copy_from_slice(&[
            at(3) * width,
            at(5) * width,
            20.0 + at(7) * 60.0,
            20.0 + at(11) * 60.0,
            0.5 + at(13) / 2.0,
        ]);
        row[5 + (n + seed) % spec.output.classes] = 0.6 + at(17) * 0.4;
    }
    output
}

#[test]
fn a_warm_pipeline_allocates_nothing_with_the_shipped_model() {
    allocates_nothing(&shipped_model());
}

#[test]
fn a_warm_pipeline_allocates_nothing_with_80_classes_and_25200_rows() {
    let Some(model) = test_data("models/yolov5n_coco_640.onnx") else { return };
    allocates_nothing(&model);
}

fn allocates_nothing(model: &Path) {
    assert!(allocations(|| drop(std::hint::black_box(vec![1_u8; 100]))) > 0, "the counter counts");
    let spec = ModelSpec::open(model, None).unwrap();
    let size = Size::new(1280, 720);
    let (y, uv) = (vec![90_u8; 1280 * 720], vec![128_u8; 1280 * 360]);
    let color = ColorSpec::default();
    let nv12 =
        ImageView::Nv12 { size, y: Plane { data: &y, stride: 1280 }, uv: Plane { data: &uv, stride: 1280 }, color };
    let (u, v) = uv.split_at(uv.len() / 2);
    let i420 = ImageView::I420 {
        size,
        y: Plane { data: &y, stride: 1280 },
        u: Plane { data: u, stride: 640 },
        v: Plane { data: v, stride: 640 },
        color,
    };
    let rows = spec.output.rows;
    // The first frame has the fewest boxes: the steady state must not depend on what came before.
    let outputs: Vec<Vec<f32>> = [1, 300, 3000, 0, rows].iter().map(|n| output(&spec, *n, *n)).collect();
    let params = DecodeParams { threshold: 0.25, classes: Some(vec![true; spec.output.classes]) };
    let mut preprocessor = Preprocessor::new(&spec.input);
    let mut tensor = vec![0.0; 3 * spec.input.size.w as usize * spec.input.size.h as usize];
    let mut nms = Nms::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut detections = Vec::new();
    let mut frame = |n: usize| {
        let image = if n.is_multiple_of(2) { &nv12 } else { &i420 };
        let letterbox = preprocessor.run(image, &mut tensor).unwrap();
        decode(&spec, &[&outputs[n % outputs.len()]], &params, &mut candidates);
        nms.run(&mut candidates, 0.45, 300, &letterbox, &mut detections);
        detections.len()
    };
    frame(0);
    let mut found = 0;
    assert_eq!(allocations(|| (1..11).for_each(|n| found += frame(n))), 0);
    assert!(found > 600, "the frames did hold boxes: {found}");
}
