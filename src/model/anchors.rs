//! YOLOv5's published anchors.

use super::tensors::Anchor;

/// Anchors of YOLOv5 n … x at strides 8, 16, 32 (published with the models).
const P5: [[Anchor; 3]; 3] = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
];

/// Anchors of YOLOv5 n6 … x6 at strides 8, 16, 32, 64.
const P6: [[Anchor; 3]; 4] = [
    [[19.0, 27.0], [44.0, 40.0], [38.0, 94.0]],
    [[96.0, 68.0], [86.0, 152.0], [180.0, 137.0]],
    [[140.0, 301.0], [303.0, 264.0], [238.0, 542.0]],
    [[436.0, 615.0], [739.0, 380.0], [925.0, 792.0]],
];

/// The anchors that YOLOv5 was published with, per head; `None` for other strides.
pub(super) fn usual_anchors(strides: &[u32]) -> Option<Vec<Vec<Anchor>>> {
    let own = |heads: &[[Anchor; 3]]| heads.iter().map(|head| head.to_vec()).collect();
    match strides {
        [8, 16, 32] => Some(own(&P5)),
        [8, 16, 32, 64] => Some(own(&P6)),
        _ => None,
    }
}
