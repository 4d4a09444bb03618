"""COCO-style average precision of a checkpoint or an ONNX file over a labelled folder."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .boxes import Array, Image, select, to_image
from .data import load_split, read_image, to_input
from .errors import InputError
from .model import Model

# One BGR image to [M, 6] in its own pixels: x1, y1, x2, y2, score, class.
Predictor = Callable[[Image], Array]
CONF, IOU = 0.001, 0.6


@dataclass(frozen=True)
class Result:
    map50: float
    map: float
    by_class: dict[str, tuple[float, float, int]]  # AP50, AP50-95, boxes
    images: int
    # For each class that occurs: precision at 101 recalls, IoU 0.5.
    curves: dict[str, Array]

    def table(self) -> str:
        rows = [f"{'class':<12}{'boxes':>6}{'AP50':>9}{'AP50-95':>9}"]
        for name, (a50, a, n) in self.by_class.items():
            rows.append(f"{name:<12}{n:>6}{a50:>9.4f}{a:>9.4f}")
        rows.append(f"{'all':<12}{sum(n for _, _, n in self.by_class.values()):>6}{self.map50:>9.4f}{self.map:>9.4f}")
        return "\n".join(rows)


def torch_predictor(model: Model, side: int) -> Predictor:
    def predict(image: Image) -> Array:
        x, place = to_input(image, side, side)
        device = next(model.parameters()).device
        with torch.no_grad():
            rows = model.predict(torch.from_numpy(x)[None].to(device))[0].float().cpu().numpy()
        return to_image(select(rows, CONF, IOU), place, image.shape[1], image.shape[0])

    return predict


def onnx_predictor(path: Path, side: int | None, threads: int = 0) -> Predictor:
    import onnxruntime as ort

    if not path.is_file():
        raise InputError("no such model", where=str(path))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads take the time that a training run beside this one could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise InputError(f"not a model for ONNX Runtime: {e}", where=str(path)) from e
    entry = session.get_inputs()[0]
    height, width = entry.shape[2], entry.shape[3]
    if not isinstance(height, int) or not isinstance(width, int):
        if side is None:
            raise InputError("has a dynamic size: give --img", where=str(path), key="images")
        height = width = side

    def predict(image: Image) -> Array:
        x, place = to_input(image, width, height)
        if "uint8" in entry.type:
            x = np.rint(x * 255)
        kinds: dict[str, Any] = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        rows = session.run(None, {entry.name: x[None].astype(kinds.get(entry.type, np.float32))})[0][0]
        return to_image(select(np.asarray(rows, dtype=np.float32), CONF, IOU), place, image.shape[1], image.shape[0])

    return predict


def evaluate(predict: Predictor, root: Path, split: str, names: list[str], only: list[str] | None = None) -> Result:
    samples = load_split(root, split, len(names))
    truth: dict[str, Any] = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)],
    }
    found: list[dict[str, Any]] = []
    counts = [0] * len(names)
    for index, sample in enumerate(samples, 1):
        image = read_image(sample.image)
        h, w = image.shape[:2]
        truth["images"].append({"id": index, "width": w, "height": h, "file_name": sample.image.name})
        for c, x, y, bw, bh in sample.labels.tolist():
            counts[int(c)] += 1
            box = [(x - bw / 2) * w, (y - bh / 2) * h, bw * w, bh * h]
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": index, "category_id": int(c) + 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
        for x1, y1, x2, y2, score, c in predict(image).tolist():
            found.append(
                {"image_id": index, "category_id": int(c) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    return _score(truth, found, names, counts, only)


def _score(
    truth: dict[str, Any], found: list[dict[str, Any]], names: list[str], counts: list[int], only: list[str] | None
) -> Result:
    chosen = [i for i, n in enumerate(names) if counts[i] and (only is None or n in only)]
    if not chosen or not found:
        empty = {names[i]: (0.0, 0.0, counts[i]) for i in chosen}
        return Result(0.0, 0.0, empty, len(truth["images"]), {})
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(found), "bbox")
        run.params.catIds = [i + 1 for i in chosen]
        run.evaluate()
        run.accumulate()
    # precision: IoU, recall, class, area, detections per image
    precision = run.eval["precision"][:, :, :, 0, 2]
    by_class: dict[str, tuple[float, float, int]] = {}
    curves: dict[str, Array] = {}
    for k, i in enumerate(chosen):
        p = np.where(precision[:, :, k] < 0, 0.0, precision[:, :, k])
        by_class[names[i]] = (float(p[0].mean()), float(p.mean()), counts[i])
        curves[names[i]] = p[0].astype(np.float32)
    return Result(
        float(np.mean([v[0] for v in by_class.values()])),
        float(np.mean([v[1] for v in by_class.values()])),
        by_class,
        len(truth["images"]),
        curves,
    )


def plot_curves(result: Result, path: Path) -> None:
    """Precision over recall at IoU 0.5 as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    for name, curve in result.curves.items():
        axes.plot(np.linspace(0, 1, len(curve)), curve, label=f"{name} {result.by_class[name][0]:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.5")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
