"""ONNX with decoded boxes and no suppression in the graph, compared with PyTorch right away."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .blocks import make_grid
from .boxes import Array
from .checkpoint import load_model
from .data import read_image, to_input
from .errors import InputError
from .model import Model


class _Graph(nn.Module):
    def __init__(self, model: Model, scaled: bool, half: bool):
        super().__init__()
        self.model = model
        self.scaled = scaled
        self.half_precision = half

    def forward(self, images: Tensor) -> Tensor:
        if self.scaled:
            images = (images.half() if self.half_precision else images.float()) / 255.0
        return self.model.predict(images)


def export(
    weights: Path, out: Path, side: int, opset: int, dynamic: bool, half: bool, kind: str, check: Path | None
) -> list[str]:
    """Writes ``out`` and gives lines that say how far it lies from PyTorch."""
    model, names, _ = load_model(weights)
    return export_model(model, names, out, side, opset, dynamic, half, kind, check)


def export_model(
    model: Model,
    names: list[str],
    out: Path,
    side: int,
    opset: int,
    dynamic: bool,
    half: bool,
    kind: str,
    check: Path | None,
) -> list[str]:
    step = max(model.strides)
    if side % step:
        raise InputError(f"{side} is no multiple of the model's stride {step}", key="--img")
    if not out.parent.is_dir():
        raise InputError("no such folder", where=str(out.parent), key="--out")
    reference = model.eval()
    model = copy.deepcopy(reference).eval()
    if half:
        model = model.half()
    if not dynamic:
        like = next(model.parameters())
        model.detect.fixed_grids = [make_grid(side // s, side // s, like) for s in model.strides]
    example = torch.zeros(1, 3, side, side, dtype=torch.uint8 if kind == "u8" else like_type(half))
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 1: "boxes"}} if dynamic else None
    with warnings.catch_warnings(), torch.no_grad():
        # Sizes of a static export are meant to become constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(model, kind == "u8", half),
            (example,),
            str(out),
            opset_version=opset,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes=axes,
            do_constant_folding=True,
            dynamo=False,
        )
    graph = onnx.load(str(out))
    for key, value in (("stride", str(step)), ("names", repr(dict(enumerate(names))))):
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(graph)
    onnx.save(graph, str(out))
    size = out.stat().st_size / 1e6
    shapes = [(side, side), (side, side + step)] if dynamic else [(side, side)]
    lines = [f"{out}: {size:.2f} MB, opset {opset}, {len(graph.graph.node)} nodes"]
    for height, width in shapes:
        boxes, scores = compare(reference, out, width, height, kind, half, check)
        lines.append(f"{width}x{height} against PyTorch fp32: boxes within {boxes:.2g} px, scores within {scores:.2g}")
    return lines


def like_type(half: bool) -> torch.dtype:
    return torch.float16 if half else torch.float32


def compare(
    model: Model, path: Path, width: int, height: int, kind: str, half: bool, image: Path | None
) -> tuple[float, float]:
    """Largest differences of boxes in pixels and of scores, between ONNX Runtime and PyTorch in fp32."""
    import onnxruntime as ort

    if image is not None:
        x, _ = to_input(read_image(image), width, height)
        pixels = np.rint(x * 255).astype(np.uint8)
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    fractions: Array = pixels.astype(np.float32) / np.float32(255)
    with torch.no_grad():
        ours = model.predict(torch.from_numpy(fractions)[None]).numpy()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = pixels if kind == "u8" else fractions.astype(np.float16 if half else np.float32)
    theirs = np.asarray(session.run(["output0"], {"images": fed[None]})[0], dtype=np.float32)
    if theirs.shape != ours.shape:
        raise InputError(f"gives {theirs.shape} where PyTorch gives {ours.shape}", where=str(path))
    gap = np.abs(theirs - ours)
    return float(gap[..., :4].max()), float(gap[..., 4:].max())
