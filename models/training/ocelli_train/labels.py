"""Labels the frames of a clip by a bigger teacher, YOLOX in its published ONNX layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import onnxruntime as ort

from .boxes import Array, Image, letterbox, nms, xywh_to_xyxy
from .errors import InputError

# Positions of our classes among the 80 of COCO.
COCO = {"bus": 5, "car": 2, "motorbike": 3, "person": 0, "truck": 7}
NAMES = ["bus", "car", "motorbike", "person", "truck"]


class YoloxTeacher:
    """BGR 0-255, letterboxed to the top left; raw rows need grid and stride."""

    def __init__(self, path: str | Path, threads: int = 1):
        if not Path(path).is_file():
            raise InputError("no such teacher model", where=str(path))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.side = int(self.session.get_inputs()[0].shape[2])
        cells, strides = [], []
        for s in (8, 16, 32):
            n = self.side // s
            gy, gx = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
            cells.append(np.stack((gx, gy), -1).reshape(-1, 2))
            strides.append(np.full((n * n, 1), s))
        self.cells = np.concatenate(cells).astype(np.float32)
        self.strides = np.concatenate(strides).astype(np.float32)

    def rows(self, image: Image) -> Array:
        """[N, 85] with boxes xywh in the pixels of ``image``."""
        padded, place = letterbox(image, self.side, self.side, centered=False)
        x = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], dtype=np.float32)
        out = np.array(self.session.run(None, {self.input: x})[0][0], dtype=np.float32)
        out[:, :2] = (out[:, :2] + self.cells) * self.strides / place.scale
        out[:, 2:4] = np.exp(out[:, 2:4]) * self.strides / place.scale
        return out

    def detect(self, image: Image, classes: list[int], conf: float, iou: float, tile: int | None) -> Array:
        """x1, y1, x2, y2, score, index into ``classes``; with ``tile`` also on overlapping, mirrored crops."""
        h, w = image.shape[:2]
        views = [(0, 0, w, h)]
        if tile is not None and (w > tile or h > tile):
            views += [(x, y, min(x + tile, w), min(y + tile, h)) for y in _starts(h, tile) for x in _starts(w, tile)]
        found: list[Array] = []
        for x1, y1, x2, y2 in views:
            crop = np.ascontiguousarray(image[y1:y2, x1:x2])
            for mirrored in (False, True):
                rows = self.rows(np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop)
                scores = rows[:, 4:5] * rows[:, 5:][:, classes]
                best = scores.argmax(1)
                score = scores[np.arange(len(rows)), best]
                good = score > conf
                boxes = xywh_to_xyxy(rows[good, :4])
                if mirrored:
                    boxes[:, [0, 2]] = (x2 - x1) - boxes[:, [2, 0]]
                # A box cut by an inner edge of the crop is half an object.
                edge = 3.0
                cut = (
                    ((boxes[:, 0] < edge) & (x1 > 0))
                    | ((boxes[:, 1] < edge) & (y1 > 0))
                    | ((boxes[:, 2] > x2 - x1 - edge) & (x2 < w))
                    | ((boxes[:, 3] > y2 - y1 - edge) & (y2 < h))
                )
                boxes = boxes + np.array([x1, y1, x1, y1], dtype=np.float32)
                part = np.concatenate((boxes, score[good, None], best[good, None].astype(np.float32)), 1)
                found.append(part[~cut].astype(np.float32))
        every = np.concatenate(found)
        every[:, [0, 2]] = every[:, [0, 2]].clip(0, w)
        every[:, [1, 3]] = every[:, [1, 3]].clip(0, h)
        every = every[nms(every[:, :4], every[:, 4], every[:, 5].astype(np.int64), iou)]
        # The same van as a car and as a truck: the better name stays.
        return every[nms(every[:, :4], every[:, 4], np.zeros(len(every), dtype=np.int64), max(iou, 0.75))]


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    n = -(-(length - tile // 4) // (tile - tile // 4))
    return [round(i * (length - tile) / max(n - 1, 1)) for i in range(n)]


@dataclass(frozen=True)
class Part:
    """The frames of a clip from one fraction to another."""

    start: float
    end: float
    every: int


def frames(clip: str | Path, part: Part) -> Iterator[tuple[int, Image]]:
    capture = cv2.VideoCapture(str(clip))
    if not capture.isOpened():
        raise InputError("cannot open the clip", where=str(clip))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    first, last = round(total * part.start), round(total * part.end)
    for index in range(last):
        ok, frame = capture.read()
        if not ok:
            return
        if index >= first and (index - first) % part.every == 0:
            yield index, np.asarray(frame, dtype=np.uint8)


def label_clip(
    clip: str | Path, teacher: YoloxTeacher, out: Path, split: str, part: Part, conf: float, iou: float, tile: int | None
) -> tuple[int, int]:
    """Writes ``images/<split>`` and ``labels/<split>``; gives the number of frames and boxes."""
    images, labels = out / "images" / split, out / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    stem = Path(clip).stem
    wanted = [COCO[n] for n in NAMES]
    count = boxes = 0
    for index, frame in frames(clip, part):
        h, w = frame.shape[:2]
        found = teacher.detect(frame, wanted, conf, iou, tile)
        lines = []
        for x1, y1, x2, y2, _, c in found:
            lines.append(
                f"{int(c)} {(x1 + x2) / 2 / w:.6f} {(y1 + y2) / 2 / h:.6f} {(x2 - x1) / w:.6f} {(y2 - y1) / h:.6f}"
            )
        name = f"{stem}_{index:05d}"
        cv2.imwrite(str(images / f"{name}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
        (labels / f"{name}.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        count += 1
        boxes += len(found)
    return count, boxes
