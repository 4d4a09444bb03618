//! Model families: the layout of a detector's output.

use serde::{Deserialize, Serialize};

use crate::types::named;

named! {
    /// Layout of the output. `b` is the batch (1), `nc` the number of classes, `N` the number of rows.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Family {
        /// `[b, N, 5 + nc]`: cx, cy, w, h in input pixels, objectness, class scores; all decoded. N = Σ 3·(H/s)·(W/s).
        /// YOLOv5, v6 and v7.
        YoloV5 = "yolov5",
        /// One `[b, a, H/s, W/s, 5 + nc]` per stride s, before the sigmoid; boxes follow from `a` anchors per cell.
        /// YOLOv5 and v7 exported without their last layer.
        YoloV5Heads = "yolov5_heads",
        /// `[b, 4 + nc, N]`: cx, cy, w, h in input pixels, class scores; N = Σ (H/s)·(W/s). YOLOv8, v9, 11 and 12.
        YoloV8 = "yolov8",
        /// `[b, N, 5 + nc]`: undecoded grid offsets, objectness, class scores; N = Σ (H/s)·(W/s).
        YoloX = "yolox",
        /// `[b, N, 4]`: x1, y1, x2, y2 in input pixels, and `[b, N, nc]`: class scores; N = Σ (H/s)·(W/s). YOLO-NAS.
        YoloNas = "yolonas",
        /// `[b, N, 6]`: x1, y1, x2, y2 in input pixels, score, class; no NMS needed. YOLOv10, YOLO26, and exports of
        /// Ultralytics with NMS inside.
        EndToEnd = "end_to_end",
        /// `[n, 7]`: image of the batch, x1, y1, x2, y2 in input pixels, class, score; the n boxes that NMS in the graph has
        /// kept. YOLOv7's export with NMS inside.
        NmsClassScore = "nms_class_score",
        /// The same with the last two columns exchanged: YOLO-NAS' own export.
        NmsScoreClass = "nms_score_class",
        /// `[b, N, 4 + nc]`: cx, cy, w, h as fractions of the input's sides, class scores; no NMS needed. RT-DETR as
        /// Ultralytics exports it.
        RtDetr = "rtdetr",
        /// `[b, N, nc]`: classes before the sigmoid, and `[b, N, 4]`: cx, cy, w, h as fractions of the input's sides; no NMS
        /// needed. RT-DETR and D-FINE as transformers exports them (`logits`, `pred_boxes`).
        DetrLogits = "detr_logits",
        /// `[b, N]`: classes, `[b, N, 4]`: x1, y1, x2, y2 in pixels of the size that a second input `[b, 2]` takes, and `[b, N]`:
        /// scores; no NMS needed. RT-DETR, D-FINE and DEIM as their own code exports them.
        DetrBoxes = "detr_boxes",
    }
}

impl Family {
    /// Rows per cell of a detection head's grid; 0: rows are not cells.
    pub const fn anchors(self) -> u64 {
        match self {
            Self::YoloV5 | Self::YoloV5Heads => 3,
            Self::YoloV8 | Self::YoloX | Self::YoloNas => 1,
            _ => 0,
        }
    }

    /// Whether several boxes may stand for one object, so that NMS must follow.
    pub const fn wants_nms(self) -> bool {
        self.anchors() > 0
    }

    /// Which models have this layout, for people.
    pub const fn models(self) -> &'static str {
        match self {
            Self::YoloV5 => "YOLOv5, v6 or v7, decoded",
            Self::YoloV5Heads => "YOLOv5 or v7, raw heads",
            Self::YoloV8 => "YOLOv8, v9, 11 or 12",
            Self::YoloX => "YOLOX, undecoded",
            Self::YoloNas => "YOLO-NAS",
            Self::EndToEnd => "YOLOv10, YOLO26, or NMS inside",
            Self::NmsClassScore => "NMS inside, class before score",
            Self::NmsScoreClass => "NMS inside, score before class",
            Self::RtDetr => "RT-DETR of Ultralytics",
            Self::DetrLogits => "RT-DETR or D-FINE of transformers",
            Self::DetrBoxes => "RT-DETR, D-FINE or DEIM with boxes in pixels",
        }
    }

    /// Shape of the output with a batch of one, for families with one output.
    pub const fn shape(self, rows: usize, classes: usize) -> [usize; 3] {
        match self {
            Self::YoloV5 | Self::YoloX | Self::YoloV5Heads => [1, rows, 5 + classes],
            Self::YoloV8 => [1, 4 + classes, rows],
            Self::RtDetr => [1, rows, 4 + classes],
            Self::EndToEnd => [1, rows, 6],
            _ => [1, rows, 4],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn families_are_named_as_in_manifests() {
        for &family in Family::ALL {
            assert_eq!(serde_json::to_value(family).unwrap(), family.as_str());
        }
    }
}
