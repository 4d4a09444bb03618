#!/usr/bin/env python3
"""Writes families/: one tiny model per output layout that Ocelli knows, a picture, and the boxes on it.

The models are real graphs (convolutions with SiLU, a residual, DFL boxes) with random weights from a fixed seed. Head
biases are set so that a few cells fire on the picture, with a margin to every threshold: rounding of a runtime never
decides. `expected.json` holds the boxes: the graphs are run by the reference evaluator of `onnx` (NumPy) and decoded
here, independently of Ocelli's code.

Needs `onnx`, `numpy` and `pillow`. Usage: make_family_models.py families/
"""
import json
import pathlib
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save
from onnx.reference import ReferenceEvaluator
from PIL import Image

W, H, CLASSES, STRIDES = 96, 64, 3, (8, 16, 32)
CHANNELS, BINS, QUERIES = 12, 4, 30
THRESHOLD, IOU = 0.25, 0.45
# Cells above the threshold.
FEWEST, MOST = 5, 14
ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
ELEM = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


def picture():
    """Blurred noise and some flat rectangles: something for convolutions to see."""
    rng = np.random.default_rng(7)
    image = np.kron(rng.uniform(40, 200, (8, 12, 3)), np.ones((8, 8, 1)))
    for x, y, w, h, color in [(8, 8, 20, 30, (230, 30, 30)), (40, 20, 36, 16, (20, 220, 40)), (70, 40, 20, 20, (30, 60, 240))]:
        image[y : y + h, x : x + w] = color
    return (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


class Graph:
    """Collects nodes and constants; a value is its name."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def op(self, op, *inputs, outputs=1, name=None, **attributes):
        names = [name or f"v{len(self.nodes)}_{n}" for n in range(outputs)]
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def slice(self, value, axis, start, end):
        return self.op("Slice", value, *(np.array([n], np.int64) for n in (start, end, axis)))

    def model(self, inputs, outputs, metadata):
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        port = lambda p: helper.make_tensor_value_info(*p)
        graph = helper.make_graph(self.nodes, "family", [port(p) for p in inputs], [port(p) for p in outputs], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="ocelli tests")
        helper.set_model_props(model, {"names": str({n: f"c{n}" for n in range(CLASSES)}), **metadata})
        checker.check_model(model, full_check=True)
        return model


def conv(g, rng, x, inputs, outputs, stride, gain=1.0):
    weight = rng.normal(0, gain * np.sqrt(2 / (9 * inputs)), (outputs, inputs, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, outputs).astype(np.float32)
    y = g.op("Conv", x, weight, bias, kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
    return g.op("Mul", y, g.op("Sigmoid", y))


def torso(g, seed, x, gain):
    """Features at strides 8, 16 and 32."""
    rng = np.random.default_rng(seed)
    x = conv(g, rng, x, 3, 8, 2, gain)
    x = conv(g, rng, x, 8, 8, 2)
    x = conv(g, rng, x, 8, CHANNELS, 2)
    features = [g.op("Add", x, conv(g, rng, x, CHANNELS, CHANNELS, 1))]
    for _ in STRIDES[1:]:
        features.append(conv(g, rng, features[-1], CHANNELS, CHANNELS, 2))
    return features


def features_of(seed, feed, gain):
    g = Graph()
    names = torso(g, seed, "images", gain)
    outputs = [(n, TensorProto.FLOAT, [1, CHANNELS, H // s, W // s]) for n, s in zip(names, STRIDES)]
    return ReferenceEvaluator(g.model([("images", TensorProto.FLOAT, [1, 3, H, W])], outputs, {})).run(None, feed)


def head_weights(rng, features, columns, fire, spread, mean):
    """1x1 convolutions per stride. The bias of the columns `fire` puts the threshold into the widest gap between cells
    that leaves a few of them above it."""
    weights = [rng.normal(0, 1, (columns, CHANNELS)) for _ in STRIDES]
    raw = [np.einsum("oc,chw->ohw", w, f[0]) for w, f in zip(weights, features)]
    flat = np.concatenate([r.reshape(columns, -1) for r in raw], axis=1)
    scale = spread / flat.std(axis=1)
    bias = mean - flat.mean(axis=1) * scale
    top = -np.sort(-(flat * scale[:, None])[fire].ravel())
    gap = FEWEST + np.argmax(top[FEWEST:MOST] - top[FEWEST + 1 : MOST + 1])
    bias[fire] = np.log(THRESHOLD / (1 - THRESHOLD)) - (top[gap] + top[gap + 1]) / 2
    return [((w * scale[:, None]).astype(np.float32)[..., None, None], bias.astype(np.float32)) for w in weights]


def grid():
    """Centre of each cell in pixels, and its stride: [N, 2], [N, 1]."""
    centres, strides = [], []
    for s in STRIDES:
        y, x = np.mgrid[0 : H // s, 0 : W // s]
        centres.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * s)
        strides.append(np.full((len(centres[-1]), 1), s))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


N = len(grid()[0])


class Source:
    """The input of a family, and what feeds it."""

    def __init__(self, seed, image, kind):
        planes = image.transpose(2, 0, 1)[None].astype(np.float32)
        self.seed, self.kind, self.gain = seed, kind, 1.0
        if kind == "bgr":
            self.gain, planes = 1 / 255, np.ascontiguousarray(planes[:, ::-1])
        else:
            planes = planes / 255
        self.feed = {"images": image[None] if kind == "bytes" else planes}
        self.features = features_of(seed, {"images": planes}, self.gain)

    def port(self):
        if self.kind == "bytes":
            return ("images", TensorProto.UINT8, [1, H, W, 3])
        return ("images", TensorProto.FLOAT, [1, 3, H, W])

    def torso(self, g):
        x = "images"
        if self.kind == "bytes":
            x = g.op("Cast", g.op("Transpose", x, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
            x = g.op("Div", x, np.float32(255))
        return torso(g, self.seed, x, self.gain)


def anchor_heads(g, source):
    """Per stride `[1, 3, h, w, 5 + nc]` before the sigmoid."""
    columns = 5 + CLASSES
    kind = np.tile([0, 0, 0, 0, 1] + [2] * CLASSES, 3)
    spread = np.choose(kind, [0.8, 4.0, 3.0])
    mean = np.choose(kind, [0.0, 0.0, 2.0])
    fire = np.flatnonzero(kind == 1)
    rng = np.random.default_rng(source.seed + 1)
    heads = []
    for x, (w, b), s in zip(source.torso(g), head_weights(rng, source.features, 3 * columns, fire, spread, mean), STRIDES):
        x = g.op("Reshape", g.op("Conv", x, w, b), np.array([1, 3, columns, H // s, W // s], np.int64))
        heads.append(g.op("Transpose", x, perm=[0, 1, 3, 4, 2]))
    return heads


def yolov5(g, source):
    rows = []
    for x, s, anchors in zip(anchor_heads(g, source), STRIDES, ANCHORS):
        x = g.op("Sigmoid", x)
        y, x_cell = np.mgrid[0 : H // s, 0 : W // s]
        cell = np.stack([x_cell, y], -1)[None, None].astype(np.float32)
        sides = np.array(anchors, np.float32)[None, :, None, None]
        two = g.op("Mul", g.slice(x, 4, 0, 2), np.float32(2))
        xy = g.op("Mul", g.op("Add", two, cell - np.float32(0.5)), np.float32(s))
        wh = g.op("Mul", g.slice(x, 4, 2, 4), np.float32(2))
        wh = g.op("Mul", g.op("Mul", wh, wh), sides)
        x = g.op("Concat", xy, wh, g.slice(x, 4, 4, 5 + CLASSES), axis=4)
        rows.append(g.op("Reshape", x, np.array([1, -1, 5 + CLASSES], np.int64)))
    g.op("Concat", *rows, axis=1, name="output0")
    return [("output0", [1, 3 * N, 5 + CLASSES])]


def yolov5_heads(g, source):
    outputs = []
    for n, (x, s) in enumerate(zip(anchor_heads(g, source), STRIDES)):
        g.op("Identity", x, name=f"head{n}")
        outputs.append((f"head{n}", [1, 3, H // s, W // s, 5 + CLASSES]))
    return outputs


def flat_head(g, source, groups, fire):
    """`[1, columns, N]` of all strides; `groups` are (columns, spread, mean)."""
    columns = sum(n for n, _, _ in groups)
    spread = np.concatenate([np.full(n, s) for n, s, _ in groups])
    mean = np.concatenate([np.full(n, m) for n, _, m in groups])
    rng = np.random.default_rng(source.seed + 2)
    parts = []
    for x, (w, b) in zip(source.torso(g), head_weights(rng, source.features, columns, fire, spread, mean)):
        parts.append(g.op("Reshape", g.op("Conv", x, w, b), np.array([1, columns, -1], np.int64)))
    return g.op("Concat", *parts, axis=2)


def anchor_free(g, source):
    """Corners `[1, N, 4]` in pixels, by DFL as in YOLOv8, and class logits `[1, nc, N]`."""
    boxes = 4 * BINS
    x = flat_head(g, source, [(boxes, 1.5, 0), (CLASSES, 4.0, 0)], np.arange(boxes, boxes + CLASSES))
    bins = g.op("Reshape", g.slice(x, 1, 0, boxes), np.array([1, 4, BINS, N], np.int64))
    bins = g.op("Softmax", g.op("Transpose", bins, perm=[0, 2, 1, 3]), axis=1)
    distance = g.op("Conv", bins, np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1))
    distance = g.op("Transpose", g.op("Reshape", distance, np.array([1, 4, N], np.int64)), perm=[0, 2, 1])
    centre, stride = grid()
    distance = g.op("Mul", distance, stride[None])
    first = g.op("Sub", centre[None], g.slice(distance, 2, 0, 2))
    last = g.op("Add", centre[None], g.slice(distance, 2, 2, 4))
    return g.op("Concat", first, last, axis=2), g.slice(x, 1, boxes, boxes + CLASSES)


def centred(g, corners):
    first, last = g.slice(corners, 2, 0, 2), g.slice(corners, 2, 2, 4)
    centre = g.op("Mul", g.op("Add", first, last), np.float32(0.5))
    return g.op("Concat", centre, g.op("Sub", last, first), axis=2)


def yolov8(g, source):
    corners, logits = anchor_free(g, source)
    boxes = g.op("Transpose", centred(g, corners), perm=[0, 2, 1])
    g.op("Concat", boxes, g.op("Sigmoid", logits), axis=1, name="output0")
    return [("output0", [1, 4 + CLASSES, N])]


def yolox(g, source):
    x = flat_head(g, source, [(2, 0.4, 0.5), (2, 0.3, 1.0), (1, 4.0, 0), (CLASSES, 3.0, 2.0)], np.array([4]))
    scores = g.op("Sigmoid", g.slice(x, 1, 4, 5 + CLASSES))
    g.op("Transpose", g.op("Concat", g.slice(x, 1, 0, 4), scores, axis=1), perm=[0, 2, 1], name="output")
    return [("output", [1, N, 5 + CLASSES])]


def yolonas(g, source):
    corners, logits = anchor_free(g, source)
    g.op("Identity", corners, name="boxes")
    g.op("Transpose", g.op("Sigmoid", logits), perm=[0, 2, 1], name="scores")
    return [("boxes", [1, N, 4]), ("scores", [1, N, CLASSES])]


def best_queries(g, source):
    """The best cells: corners `[1, Q, 4]` and logits `[1, Q, nc]`."""
    corners, logits = anchor_free(g, source)
    best = g.op("Reshape", g.op("ReduceMax", logits, axes=[1], keepdims=0), np.array([N], np.int64))
    order = g.op("TopK", best, np.array([QUERIES], np.int64), outputs=2)[1]
    rows = lambda x, columns: g.op("Reshape", x, np.array([N, columns], np.int64))
    corners = g.op("Gather", rows(corners, 4), order, axis=0)
    logits = g.op("Gather", rows(g.op("Transpose", logits, perm=[0, 2, 1]), CLASSES), order, axis=0)
    back = lambda x, columns: g.op("Reshape", x, np.array([1, QUERIES, columns], np.int64))
    return back(corners, 4), back(logits, CLASSES)


def end_to_end(g, source):
    corners, logits = best_queries(g, source)
    score = g.op("ReduceMax", g.op("Sigmoid", logits), axes=[2], keepdims=1)
    number = g.op("Cast", g.op("ArgMax", logits, axis=2, keepdims=1), to=TensorProto.FLOAT)
    g.op("Concat", corners, score, number, axis=2, name="output0")
    return [("output0", [1, QUERIES, 6])]


def fractions(g, corners):
    return g.op("Div", centred(g, corners), np.array([[[W, H, W, H]]], np.float32))


def rtdetr(g, source):
    corners, logits = best_queries(g, source)
    g.op("Concat", fractions(g, corners), g.op("Sigmoid", logits), axis=2, name="output0")
    return [("output0", [1, QUERIES, 4 + CLASSES])]


def detr_logits(g, source):
    corners, logits = best_queries(g, source)
    g.op("Identity", logits, name="logits")
    g.op("Identity", fractions(g, corners), name="pred_boxes")
    return [("logits", [1, QUERIES, CLASSES]), ("pred_boxes", [1, QUERIES, 4])]


def detr_boxes(g, source):
    corners, logits = best_queries(g, source)
    size = g.op("Cast", "orig_target_sizes", to=TensorProto.FLOAT)
    size = g.op("Reshape", g.op("Concat", size, size, axis=1), np.array([1, 1, 4], np.int64))
    g.op("ArgMax", logits, axis=2, keepdims=0, name="labels")
    g.op("Mul", g.op("Div", corners, np.array([[[W, H, W, H]]], np.float32)), size, name="boxes")
    g.op("ReduceMax", g.op("Sigmoid", logits), axes=[2], keepdims=0, name="scores")
    return [("labels", [1, QUERIES]), ("boxes", [1, QUERIES, 4]), ("scores", [1, QUERIES])]


def nms_rows(score_first):
    def build(g, source):
        corners, logits = anchor_free(g, source)
        scores = g.op("Sigmoid", logits)
        limits = np.array([20], np.int64), np.array([IOU], np.float32), np.array([0.1], np.float32)
        chosen = g.op("NonMaxSuppression", corners, scores, *limits)
        column = lambda n: g.op("Gather", chosen, np.array(n, np.int64), axis=1)
        box = g.op("Gather", g.op("Reshape", corners, np.array([N, 4], np.int64)), column(2), axis=0)
        one = lambda x: g.op("Reshape", x, np.array([-1, 1], np.int64))
        number = lambda n: one(g.op("Cast", column(n), to=TensorProto.FLOAT))
        score, classes = one(g.op("GatherND", scores, chosen)), number(1)
        last = (score, classes) if score_first else (classes, score)
        g.op("Concat", number(0), box, *last, axis=1, name="output")
        return [("output", ["boxes", 7])]

    return build


# --- What Ocelli must find, decoded independently: rows of (class, score, x1, y1, x2, y2).


def rows_of(boxes, scores):
    best = scores.argmax(axis=-1)
    return np.concatenate([best[:, None], scores.max(axis=-1)[:, None], boxes], axis=1)


def corners_of(cxcywh):
    centre, side = cxcywh[:, :2], cxcywh[:, 2:]
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1)


def decode_objectness(out, boxes):
    rows = rows_of(boxes, out[:, 5:])
    rows[:, 1] *= out[:, 4]
    near(out[:, 4])
    return rows[out[:, 4] > THRESHOLD]


def decode_heads(outs):
    rows = []
    for out, s, anchors in zip(outs, STRIDES, ANCHORS):
        for a, anchor in enumerate(anchors):
            p = sigmoid(out[0, a].astype(np.float64))
            y, x = np.mgrid[0 : H // s, 0 : W // s]
            xy = (p[..., :2] * 2 - 0.5 + np.stack([x, y], -1)) * s
            wh = (p[..., 2:4] * 2) ** 2 * anchor
            rows.append(np.concatenate([xy, wh, p[..., 4:]], -1).reshape(-1, 5 + CLASSES))
    out = np.concatenate(rows)
    return decode_objectness(out, corners_of(out[:, :4]))


def decode_yolox(outs):
    out = outs[0][0].astype(np.float64)
    centre, stride = grid()
    xy = (out[:, :2] + centre / stride - 0.5) * stride
    return decode_objectness(out, corners_of(np.concatenate([xy, np.exp(out[:, 2:4]) * stride], axis=1)))


SIZE4 = np.array([W, H, W, H])
# Per model: how it is built, its input, manifest, metadata, the name of its family, and how it is decoded.
MODELS = {
    "yolov5": (yolov5, "rgb", "", {"stride": "32"}, "yolov5", lambda o: decode_objectness(o[0][0], corners_of(o[0][0][:, :4]))),
    "yolov5_heads": (yolov5_heads, "rgb", "", {}, "yolov5_heads", decode_heads),
    "yolov8": (yolov8, "rgb", "", {"stride": "32"}, "yolov8", lambda o: rows_of(corners_of(o[0][0].T[:, :4]), o[0][0].T[:, 4:])),
    "yolov8_bytes": (yolov8, "bytes", "", {"stride": "32"}, "yolov8", lambda o: rows_of(corners_of(o[0][0].T[:, :4]), o[0][0].T[:, 4:])),
    "yolox": (yolox, "bgr", "family: yolox\n", {}, "yolox", decode_yolox),
    "yolonas": (yolonas, "rgb", "", {}, "yolonas", lambda o: rows_of(o[0][0], o[1][0])),
    "end_to_end": (end_to_end, "rgb", "", {}, "end_to_end", lambda o: o[0][0][:, [5, 4, 0, 1, 2, 3]]),
    "nms_class_score": (nms_rows(False), "rgb", "family: nms_class_score\n", {}, "nms_class_score", lambda o: o[0][:, [5, 6, 1, 2, 3, 4]]),
    "nms_score_class": (nms_rows(True), "rgb", "family: nms_score_class\n", {}, "nms_score_class", lambda o: o[0][:, [6, 5, 1, 2, 3, 4]]),
    "rtdetr": (rtdetr, "rgb", "", {"description": "Ultralytics RT-DETR"}, "rtdetr", lambda o: rows_of(corners_of(o[0][0][:, :4]) * SIZE4, o[0][0][:, 4:])),
    "detr_logits": (detr_logits, "rgb", "", {}, "detr_logits", lambda o: rows_of(corners_of(o[1][0]) * SIZE4, sigmoid(o[0][0]))),
    "detr_boxes": (detr_boxes, "rgb", "", {}, "detr_boxes", lambda o: np.concatenate([o[0][0][:, None], o[2][0][:, None], o[1][0]], axis=1)),
}
WANTS_NMS = ("yolov5", "yolov5_heads", "yolov8", "yolov8_bytes", "yolox", "yolonas")


class Unclear(Exception):
    """A value so close to a threshold that rounding could decide."""


def near(values, limit=THRESHOLD, margin=0.01):
    if (np.abs(values - limit) < margin).any():
        raise Unclear


def iou(a, b):
    side = np.minimum(a[4:], b[4:]) - np.maximum(a[2:4], b[2:4])
    inner = np.prod(np.maximum(side, 0))
    area = lambda r: (r[4] - r[2]) * (r[5] - r[3])
    return inner / (area(a) + area(b) - inner)


def detections(rows, nms):
    """Thresholds, NMS within each class, and the cut to the picture. Raises `Unclear`."""
    near(rows[:, 1])
    rows = rows[rows[:, 1] > THRESHOLD]
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    if len(rows) > 1 and (-np.diff(rows[:, 1]) < 1e-3).any():
        raise Unclear
    kept, dropped = [], 0
    for row in rows:
        overlaps = np.array([iou(row, k) for k in kept if k[0] == row[0]] or [0])
        if nms:
            near(overlaps, IOU, 0.05)
        if nms and (overlaps > IOU).any():
            dropped += 1
        else:
            kept.append(row)
    kept = np.array(kept)
    kept[:, 2:] = np.clip(kept[:, 2:], 0, SIZE4)
    sides = kept[:, 4:] - kept[:, 2:4]
    if not 2 <= len(kept) <= 16 or (nms and dropped == 0) or (sides < 4).any() or len(set(kept[:, 0])) < 2:
        raise Unclear
    return kept


def make(name, seed, image):
    build, kind, manifest, metadata, family, decode = MODELS[name]
    source, g = Source(seed, image, kind), Graph()
    outputs = build(g, source)
    inputs = [source.port()]
    if name == "detr_boxes":
        inputs.append(("orig_target_sizes", TensorProto.INT64, [1, 2]))
        source.feed["orig_target_sizes"] = np.array([[W, H]], np.int64)
    elem = lambda output: TensorProto.INT64 if output == "labels" else TensorProto.FLOAT
    model = g.model(inputs, [(n, elem(n), shape) for n, shape in outputs], metadata)
    rows = decode(ReferenceEvaluator(model).run(None, source.feed))
    found = detections(np.asarray(rows, np.float64), name in WANTS_NMS)
    boxes = [{"class": int(r[0]), "score": round(r[1], 4), "box": [round(v, 2) for v in r[2:]]} for r in found.tolist()]
    return model, {"family": family, "manifest": manifest, "detections": boxes}


def main(folder):
    folder.mkdir(exist_ok=True)
    image = picture()
    Image.fromarray(image).save(folder / "picture.png", optimize=True)
    expected = {}
    for name in MODELS:
        for seed in range(500):
            try:
                model, expected[name] = make(name, seed, image)
                break
            except Unclear:
                continue
        save(model, folder / f"{name}.onnx")
        print(name, "seed", seed, len(expected[name]["detections"]), "boxes", (folder / f"{name}.onnx").stat().st_size, "bytes")
    lines = ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in expected.items())
    (folder / "expected.json").write_text("{\n" + lines + "\n}\n")


main(pathlib.Path(sys.argv[1]))
