#!/usr/bin/env python3
"""Writes marker.onnx: a "detector" of one saturated red square, in YOLOv5's layout, with no trained weight in it.

The box is the centre of mass of the red mask and the square root of its area, so a test knows the right answer to a
fraction of a pixel, and a run costs almost nothing. Needs the package `onnx`. Usage: make_marker_model.py marker.onnx
"""
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

SIZE, CLASSES = 320, 2
ROWS = sum(3 * (SIZE // s) ** 2 for s in (8, 16, 32))  # 6300

x = np.broadcast_to(np.arange(SIZE, dtype=np.float32) + 0.5, (1, 1, SIZE, SIZE)).astype(np.float32)
y = np.ascontiguousarray(x.transpose(0, 1, 3, 2))
const = {
    # one 1x1 convolution: 4 (R - G - B) - 1
    "w": np.array([4, -4, -4], np.float32).reshape(1, 3, 1, 1),
    "b": np.array([-1], np.float32),
    "zero": np.float32(0), "one": np.float32(1), "eps": np.float32(1e-3), "few": np.float32(1 / 50.0),
    # a vector is enough along each axis: it is broadcast
    "x": x[:, :, :1, :].copy(), "y": y[:, :, :, :1].copy(),
    "axes": np.array([2, 3], np.int64),
    "class": np.array([[[0.9, 0.0]]], np.float32),
    "rest": np.zeros((1, 1, 5 + CLASSES), np.float32),
    "rest_shape": np.array([1, ROWS - 1, 5 + CLASSES], np.int64),
    "row_shape": np.array([1, 1, 1], np.int64),
}
n = helper.make_node
nodes = [
    n("Conv", ["images", "w", "b"], ["raw"]),
    n("Clip", ["raw", "zero", "one"], ["mask"]),
    n("ReduceSum", ["mask", "axes"], ["mass"], keepdims=1),
    n("Add", ["mass", "eps"], ["safe"]),
    n("Mul", ["mask", "x"], ["mx"]), n("ReduceSum", ["mx", "axes"], ["sx"], keepdims=1), n("Div", ["sx", "safe"], ["cx4"]),
    n("Mul", ["mask", "y"], ["my"]), n("ReduceSum", ["my", "axes"], ["sy"], keepdims=1), n("Div", ["sy", "safe"], ["cy4"]),
    n("Sqrt", ["safe"], ["side4"]),
    n("Mul", ["mass", "few"], ["enough"]), n("Clip", ["enough", "zero", "one"], ["obj4"]),
]
for name in ("cx", "cy", "side", "obj"):
    nodes.append(n("Reshape", [name + "4", "row_shape"], [name]))
nodes += [
    n("Concat", ["cx", "cy", "side", "side", "obj", "class"], ["row"], axis=2),
    n("Expand", ["rest", "rest_shape"], ["others"]),
    n("Concat", ["row", "others"], ["output0"], axis=1),
]
graph = helper.make_graph(
    nodes, "marker",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
    [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, ROWS, 5 + CLASSES])],
    [numpy_helper.from_array(np.asarray(v), k) for k, v in const.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, producer_name="ocelli tests")
helper.set_model_props(model, {"stride": "32", "names": "{0: 'marker', 1: 'other'}"})
checker.check_model(model, full_check=True)
save(model, sys.argv[1])
