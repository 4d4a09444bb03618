"""A model folder for the runtime: the ONNX file, and a manifest with numbers measured on that very file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import load_model
from .errors import InputError
from .eval import evaluate, onnx_predictor
from .export import export


@dataclass(frozen=True)
class Measure:
    """``KEY=DIR:SPLIT`` or ``KEY=DIR:SPLIT:CLASS``."""

    key: str
    root: Path
    split: str
    only: str | None

    @staticmethod
    def parse(text: str) -> "Measure":
        key, _, rest = text.partition("=")
        parts = rest.split(":")
        if not key or len(parts) not in (2, 3) or not all(parts):
            raise InputError(f"{text!r} is not KEY=DIR:SPLIT[:CLASS]", key="--measure")
        return Measure(key, Path(parts[0]), parts[1], parts[2] if len(parts) == 3 else None)


def pack(
    weights: Path, folder: Path, side: int, opset: int, license_: str, source: str, measures: list[Measure]
) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    model, names, _ = load_model(weights)
    out = folder / "model.onnx"
    lines = export(weights, out, side, opset, False, False, "f32", None)
    predict = onnx_predictor(out, None)
    accuracy: dict[str, float] = {}
    for m in measures:
        result = evaluate(predict, m.root, m.split, names, None if m.only is None else [m.only])
        lines.append(f"{m.key}, {result.images} images:\n{result.table()}")
        if m.only is None:
            accuracy[f"{m.key}_map50"] = result.map50
            accuracy[f"{m.key}_map50_95"] = result.map
        else:
            accuracy[f"{m.key}_{m.only}_ap50"] = result.map50
    manifest = [
        f"name: {folder.resolve().name}",
        f"file: {out.name}",
        f'sha256: "{hashlib.sha256(out.read_bytes()).hexdigest()}"',
        "family: yolov5",
        f"input: {{width: {side}, height: {side}, color: rgb, scale: 255, pad: centered, pad_value: 114}}",
        f"strides: [{', '.join(str(s) for s in model.strides)}]",
        f"labels: [{', '.join(names)}]",
        f"license: {license_}",
        f"source: {json.dumps(source)}",
    ]
    if accuracy:
        manifest.append("accuracy:")
        manifest += [f"  {k}: {v:.3f}" for k, v in accuracy.items()]
    (folder / "model.yaml").write_text("\n".join(manifest) + "\n", encoding="utf-8")
    return lines
