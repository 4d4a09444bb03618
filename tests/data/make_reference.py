#!/usr/bin/env python3
"""Fills the folder shipped/ with reference.json: what the shipped model finds on its golden pictures, computed without any code of the runtime.

Three of the pictures are also written as PNG: decoders of JPEG differ in how they scale colours up, which moves scores by up
to 0.014, so an exact comparison needs the same pixels.

Letterbox, choice of boxes and NMS are those of the training package (`models/training/ocelli_train/boxes.py`, OpenCV and
numpy). The graph is run by ONNX's own reference evaluator, which is plain numpy: no ONNX Runtime, tract or OpenVINO. That the
graph is what PyTorch computes is checked when it is exported (`models/training/ocelli_train/export.py`).

Needs `numpy`, `onnx` and `opencv-python-headless`; takes seconds. Usage: make_reference.py shipped
"""
import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/yolov5s-efficientnetv2"
SIDE, CONF, IOU = 320, 0.25, 0.45
AS_PNG = ("highway_0022", "highway_0176", "highway_0204")
out = Path(sys.argv[1])

# By its path: the package itself imports PyTorch.
spec = importlib.util.spec_from_file_location("boxes", ROOT / "models/training/ocelli_train/boxes.py")
boxes = importlib.util.module_from_spec(spec)
sys.modules["boxes"] = boxes
spec.loader.exec_module(boxes)

graph = ReferenceEvaluator(onnx.load(str(MODEL / "model.onnx")))
results = []
for path in sorted((MODEL / "golden").glob("*.jpg")):
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    padded, place = boxes.letterbox(image, SIDE, SIDE)
    pixels = np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    rows = np.asarray(graph.run(["output0"], {"images": pixels[None]})[0][0], dtype=np.float32)
    found = boxes.to_image(boxes.select(rows, CONF, IOU), place, width, height)
    names = [path.name]
    if path.stem in AS_PNG:
        names.append(path.stem + ".png")
        cv2.imwrite(str(out / names[1]), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    results += [
        {
            "image": name,
            "boxes": [
                {"cls": int(row[5]), "conf": round(float(row[4]), 5), "box": [round(float(v), 2) for v in row[:4]]}
                for row in found
            ],
        }
        for name in names
    ]
    print(path.name, len(found), flush=True)
text = {"model": "models/yolov5s-efficientnetv2/model.onnx", "conf": CONF, "iou": IOU, "results": results}
(out / "reference.json").write_text(json.dumps(text, indent=1) + "\n")
