"""Folders of images with YOLO text labels, and the augmentation of training batches."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

from .boxes import PAD, Array, Image, letterbox
from .errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_labels(path: Path, nc: int) -> Array:
    """[N, 5]: class, centre x, centre y, width, height as fractions."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 5:
            raise InputError(f"needs 5 values, has {len(parts)}", where=str(path), line=number)
        try:
            values = [float(p) for p in parts]
        except ValueError as e:
            raise InputError(f"not a number: {e}", where=str(path), line=number) from e
        if values[0] not in range(nc):
            raise InputError(f"{parts[0]} is no class of 0..{nc - 1}", where=str(path), line=number, key="class")
        for key, v in zip(("x", "y", "width", "height"), values[1:]):
            if not 0.0 <= v <= 1.0:
                raise InputError(f"{v} lies outside 0..1", where=str(path), line=number, key=key)
        if values[3] <= 0 or values[4] <= 0:
            raise InputError("the box is empty", where=str(path), line=number, key="width" if values[3] <= 0 else "height")
        rows.append(values)
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


@dataclass(frozen=True)
class Sample:
    image: Path
    labels: Array


def load_split(root: Path, split: str, nc: int) -> list[Sample]:
    """All images of a split; an image without a label file has no objects."""
    folder = root / "images" / split
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), key="split")
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError("holds no images", where=str(folder))
    samples = []
    labels = root / "labels" / split
    for label in sorted(labels.glob("*.txt")) if labels.is_dir() else []:
        if not any((folder / (label.stem + s)).is_file() for s in SUFFIXES):
            raise InputError(f"its image is missing in {folder}", where=str(label))
    for image in images:
        label = labels / (image.stem + ".txt")
        found = read_labels(label, nc) if label.is_file() else np.zeros((0, 5), dtype=np.float32)
        samples.append(Sample(image, found))
    return samples


def read_image(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError("cannot read the image", where=str(path))
    return np.asarray(image, dtype=np.uint8)


@dataclass(frozen=True)
class Source:
    """A folder, its share of each batch and the range of zoom for its images."""

    root: Path
    split: str
    share: int
    zoom: tuple[float, float]
    mosaic: float


@dataclass(frozen=True)
class DataConfig:
    names: list[str]
    sources: list[Source]
    validate: tuple[Path, str] | None


def load_config(path: Path, root: Path | None = None) -> DataConfig:
    """Reads the data file; relative folders start at ``root`` or beside the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"cannot read the data file: {e.strerror}", where=str(path)) from e
    try:
        values: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else None
        raise InputError(f"not YAML: {e.problem}", where=str(path), line=line) from e
    base = root if root is not None else path.parent

    def line_of(key: str, nth: int = 0) -> int | None:
        hits = [i for i, t in enumerate(text.splitlines(), 1) if t.lstrip(" -").startswith(f"{key}:")]
        return hits[nth] if nth < len(hits) else None

    if not isinstance(values, dict):
        raise InputError("must be a mapping", where=str(path), line=1)
    names = values.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError("must be a list of class names", where=str(path), line=line_of("names"), key="names")
    sources = []
    for i, s in enumerate(values.get("sources") or []):
        try:
            zoom = s.get("zoom", [0.55, 1.45])
            sources.append(
                Source(
                    base / str(s["root"]),
                    str(s.get("split", "train")),
                    int(s.get("share", 1)),
                    (float(zoom[0]), float(zoom[1])),
                    float(s.get("mosaic", 0.4)),
                )
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as e:
            raise InputError(f"source {i} is wrong: {e!r}", where=str(path), line=line_of("root", i), key="sources") from e
    if not sources:
        raise InputError("names no source", where=str(path), line=line_of("sources"), key="sources")
    validate = values.get("validate")
    if validate is not None and not (isinstance(validate, dict) and "root" in validate):
        raise InputError("needs root and split", where=str(path), line=line_of("validate"), key="validate")
    held = None if validate is None else (base / str(validate["root"]), str(validate.get("split", "valid")))
    return DataConfig(list(names), sources, held)


class _Pool:
    """The images of one source, decoded once and drawn without repetition until all were seen."""

    def __init__(self, source: Source, nc: int, rng: random.Random):
        self.source = source
        self.samples = load_split(source.root, source.split, nc)
        self.images: list[Image | None] = [None] * len(self.samples)
        self.rng = rng
        self.queue: list[int] = []

    def draw(self) -> tuple[Image, Array]:
        if not self.queue:
            self.queue = list(range(len(self.samples)))
            self.rng.shuffle(self.queue)
        i = self.queue.pop()
        image = self.images[i]
        if image is None:
            image = self.images[i] = read_image(self.samples[i].image)
        h, w = image.shape[:2]
        rows = self.samples[i].labels
        boxes = np.empty((len(rows), 5), dtype=np.float32)
        boxes[:, 0] = rows[:, 0]
        boxes[:, 1] = (rows[:, 1] - rows[:, 3] / 2) * w
        boxes[:, 2] = (rows[:, 2] - rows[:, 4] / 2) * h
        boxes[:, 3] = (rows[:, 1] + rows[:, 3] / 2) * w
        boxes[:, 4] = (rows[:, 2] + rows[:, 4] / 2) * h
        return image, boxes


def _place(
    image: Image, boxes: Array, width: int, height: int, scale: float, dx: float, dy: float, flip: bool
) -> tuple[Image, Array]:
    """Scales, shifts and mirrors into a grey field; boxes mostly outside are dropped."""
    h, w = image.shape[:2]
    sx = -scale if flip else scale
    matrix = np.array([[sx, 0, dx + (scale * w if flip else 0)], [0, scale, dy]], dtype=np.float32)
    out = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(PAD, PAD, PAD),
    )
    moved = boxes.copy()
    xs = boxes[:, [1, 3]] * scale
    moved[:, [1, 3]] = (scale * w - xs[:, ::-1] if flip else xs) + dx
    moved[:, [2, 4]] = boxes[:, [2, 4]] * scale + dy
    before = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
    moved[:, [1, 3]] = moved[:, [1, 3]].clip(0, width)
    moved[:, [2, 4]] = moved[:, [2, 4]].clip(0, height)
    ws, hs = moved[:, 3] - moved[:, 1], moved[:, 4] - moved[:, 2]
    kept = moved[(ws > 2) & (hs > 2) & (ws * hs > 0.25 * before)]
    return np.asarray(out, dtype=np.uint8), kept


class Batches:
    """Endless augmented batches with a fixed mix of sources."""

    def __init__(self, config: DataConfig, seed: int):
        self.rng = random.Random(seed)
        self.nc = len(config.names)
        self.pools = [_Pool(s, self.nc, self.rng) for s in config.sources]
        self.size = sum(s.share for s in config.sources)

    def state(self) -> dict[str, Any]:
        """Where the drawing stands, in types that a checkpoint may hold."""
        return {"rng": self.rng.getstate(), "queues": [list(p.queue) for p in self.pools]}

    def restore(self, state: dict[str, Any]) -> None:
        queues = state["queues"]
        if len(queues) != len(self.pools) or any(
            not 0 <= i < len(p.samples) for p, q in zip(self.pools, queues) for i in q
        ):
            raise ValueError("the sources hold other images")
        for pool, queue in zip(self.pools, queues):
            pool.queue = list(queue)
        version, words, gauss = state["rng"]
        self.rng.setstate((version, tuple(words), gauss))

    def __len__(self) -> int:
        return len(self.pools[0].samples) // max(self.pools[0].source.share, 1)

    def _single(self, pool: _Pool, side: int, calm: bool) -> tuple[Image, Array]:
        image, boxes = pool.draw()
        h, w = image.shape[:2]
        low, high = pool.source.zoom
        if calm:
            low, high = max(low, 0.8), min(high, 1.0 + (high - 1.0) / 2)
        scale = side / max(h, w) * self.rng.uniform(low, high)
        # A zoomed image shows any part of itself; a shrunk one lies anywhere in the field.
        dx = self.rng.uniform(0, 1) * (side - w * scale)
        dy = self.rng.uniform(0, 1) * (side - h * scale)
        return _place(image, boxes, side, side, scale, dx, dy, self.rng.random() < 0.5)

    def _mosaic(self, pool: _Pool, side: int) -> tuple[Image, Array]:
        cx = round(side * self.rng.uniform(0.3, 0.7))
        cy = round(side * self.rng.uniform(0.3, 0.7))
        out = np.empty((side, side, 3), dtype=np.uint8)
        rows = []
        for x1, y1, x2, y2 in ((0, 0, cx, cy), (cx, 0, side, cy), (0, cy, cx, side), (cx, cy, side, side)):
            image, boxes = pool.draw()
            h, w = image.shape[:2]
            qw, qh = x2 - x1, y2 - y1
            scale = side / max(h, w) * self.rng.uniform(0.45, 1.0) * max(1.0, pool.source.zoom[0])
            # The image's corner lies at the meeting point, so that its middle stays in view.
            dx = qw - w * scale if x1 == 0 else 0.0
            dy = qh - h * scale if y1 == 0 else 0.0
            if w * scale > qw:
                dx = self.rng.uniform(qw - w * scale, 0)
            if h * scale > qh:
                dy = self.rng.uniform(qh - h * scale, 0)
            part, kept = _place(image, boxes, qw, qh, scale, dx, dy, self.rng.random() < 0.5)
            out[y1:y2, x1:x2] = part
            kept[:, [1, 3]] += x1
            kept[:, [2, 4]] += y1
            rows.append(kept)
        return out, np.concatenate(rows)

    def _colour(self, image: Image) -> Image:
        hue, sat, val = (1 + self.rng.uniform(-1, 1) * g for g in (0.015, 0.6, 0.4))
        ramp = np.arange(256, dtype=np.float32)
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        tables = (
            ((ramp * hue) % 180).astype(np.uint8),
            (ramp * sat).clip(0, 255).astype(np.uint8),
            (ramp * val).clip(0, 255).astype(np.uint8),
        )
        mixed = cv2.merge([cv2.LUT(c, t) for c, t in zip(cv2.split(hsv), tables)])
        return np.asarray(cv2.cvtColor(mixed, cv2.COLOR_HSV2BGR), dtype=np.uint8)

    def next(self, side: int, *, mosaic: bool, calm: bool = False) -> tuple[Tensor, Tensor]:
        """Images as RGB 0..1 and targets [N, 6]: image, class, centre x, centre y, width, height as fractions."""
        images: list[Image] = []
        targets: list[Array] = []
        for pool in self.pools:
            for _ in range(pool.source.share):
                if mosaic and self.rng.random() < pool.source.mosaic:
                    image, boxes = self._mosaic(pool, side)
                else:
                    image, boxes = self._single(pool, side, calm)
                image = self._colour(image)
                rows = np.empty((len(boxes), 6), dtype=np.float32)
                rows[:, 0] = len(images)
                rows[:, 1] = boxes[:, 0]
                rows[:, 2:4] = (boxes[:, 1:3] + boxes[:, 3:5]) / 2 / side
                rows[:, 4:6] = (boxes[:, 3:5] - boxes[:, 1:3]) / side
                images.append(image[:, :, ::-1])
                targets.append(rows)
        x = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
        # Stored as height, width, channel already: the permuted view is the channels-last layout.
        return x.permute(0, 3, 1, 2).float().div_(255.0), torch.from_numpy(np.concatenate(targets))


def to_input(image: Image, width: int, height: int) -> tuple[Array, Any]:
    """One BGR image to the network's input, and how it was placed."""
    padded, place = letterbox(image, width, height)
    rgb = padded[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(rgb, dtype=np.float32) / np.float32(255.0), place
