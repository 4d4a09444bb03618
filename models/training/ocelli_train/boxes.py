"""Box arithmetic shared by labelling, training and measuring."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
PAD = 114


@dataclass(frozen=True)
class Letterbox:
    """How an image was placed into the network's input: ``x_input = x * scale + left``."""

    scale: float
    left: float
    top: float


def letterbox(image: Image, width: int, height: int, *, centered: bool = True) -> tuple[Image, Letterbox]:
    h, w = image.shape[:2]
    scale = min(width / w, height / h)
    nw, nh = round(w * scale), round(h * scale)
    if (nw, nh) != (w, h):
        image = np.asarray(cv2.resize(image, (nw, nh), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    left = round((width - nw) / 2 - 0.1) if centered else 0
    top = round((height - nh) / 2 - 0.1) if centered else 0
    out = np.full((height, width, 3), PAD, dtype=np.uint8)
    out[top : top + nh, left : left + nw] = image
    return out, Letterbox(scale, left, top)


def xywh_to_xyxy(boxes: Array) -> Array:
    half = boxes[:, 2:4] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), 1)


def iou_matrix(a: Array, b: Array) -> Array:
    lt = np.maximum(a[:, None, :2], b[None, :, :2])
    rb = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inner = np.clip(rb - lt, 0, None).prod(2)
    area_a = np.clip(a[:, 2:4] - a[:, :2], 0, None).prod(1)
    area_b = np.clip(b[:, 2:4] - b[:, :2], 0, None).prod(1)
    out: Array = (inner / (area_a[:, None] + area_b[None] - inner + 1e-9)).astype(np.float32)
    return out


def nms(boxes: Array, scores: Array, classes: npt.NDArray[np.int64], threshold: float, limit: int = 300) -> list[int]:
    """Indices kept, best first; boxes suppress only boxes of their own class."""
    order = np.argsort(-scores, kind="stable")[:3000]
    shifted = (boxes + classes[:, None].astype(np.float32) * 8192).astype(np.float32)
    keep: list[int] = []
    while order.size and len(keep) < limit:
        best = int(order[0])
        keep.append(best)
        if order.size == 1:
            break
        rest = order[1:]
        order = rest[iou_matrix(shifted[best : best + 1], shifted[rest])[0] <= threshold]
    return keep


def select(rows: Array, conf: float, iou: float) -> Array:
    """Decoded rows [N, 5 + nc] to detections [M, 6]: x1, y1, x2, y2, score, class; the best class of a box only."""
    rows = rows[rows[:, 4] > conf]
    classes = rows[:, 5:].argmax(1)
    scores = (rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]).astype(np.float32)
    good = scores > conf
    boxes = xywh_to_xyxy(rows[good, :4])
    scores, classes = scores[good], classes[good].astype(np.int64)
    keep = nms(boxes, scores, classes, iou)
    return np.concatenate((boxes[keep], scores[keep, None], classes[keep, None].astype(np.float32)), 1)


def to_image(detections: Array, box: Letterbox, width: int, height: int) -> Array:
    """Detections from input pixels back to the pixels of the image, clipped to it."""
    out = detections.copy()
    out[:, [0, 2]] = np.clip((out[:, [0, 2]] - box.left) / box.scale, 0, width)
    out[:, [1, 3]] = np.clip((out[:, [1, 3]] - box.top) / box.scale, 0, height)
    return out
