"""Int8 as quantise-dequantise pairs around the convolutions, with ranges from real images."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import onnx

from .data import SUFFIXES, read_image, to_input
from .errors import InputError


def quantise(source: Path, out: Path, images: Path, count: int) -> list[str]:
    """``source`` is a static fp32 export; ``images`` a folder of pictures like those at deployment."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not images.is_dir():
        raise InputError("no such folder", where=str(images), key="--int8")
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError("holds no images to calibrate with", where=str(images), key="--int8")
    random.Random(0).shuffle(files)
    chosen = files[:count]
    graph = onnx.load(str(source))
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    meta = {p.key: p.value for p in graph.metadata_props}

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(chosen)

        def get_next(self) -> dict[str, Any] | None:
            path = next(self.rest, None)
            if path is None:
                return None
            x, _ = to_input(read_image(path), shape[3], shape[2])
            return {"images": x[None]}

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            # Decoding multiplies by anchors of hundreds of pixels: it stays in fp32.
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    graph = onnx.load(str(out))
    del graph.metadata_props[:]
    for key, value in meta.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(graph, str(out))
    return [f"{out}: {out.stat().st_size / 1e6:.2f} MB, int8 by {len(chosen)} images of {images}"]
