from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from ocelli_train import checkpoint
from ocelli_train.errors import InputError
from ocelli_train.export import compare, export_model
from ocelli_train.model import Model

MODELS = Path(__file__).parents[1] / "models"
NAMES = ["bus", "car", "motorbike", "person", "truck"]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    m = Model.load(MODELS / "yolov5s_efficientnetv2_corrected.yaml", nc=5, drop_path=0.0).train()
    with torch.no_grad():
        for _ in range(30):  # Norms that fit the data, or nothing but zeros reaches the head.
            m(torch.rand(4, 3, 96, 96))
    return m.eval()


@pytest.mark.parametrize("opset", [17, 12])
@pytest.mark.parametrize("dynamic", [False, True])
def test_onnx_equals_pytorch(model, tmp_path, opset, dynamic):
    out = tmp_path / "m.onnx"
    export_model(model, NAMES, out, 96, opset, dynamic, False, "f32", None)
    for width, height in [(96, 96)] + ([(160, 128)] if dynamic else []):
        boxes, scores = compare(model, out, width, height, "f32", False, None)
        assert boxes < 0.05 and scores < 1e-4
    graph = onnx.load(str(out))
    meta = {p.key: p.value for p in graph.metadata_props}
    assert meta == {"stride": "32", "names": "{0: 'bus', 1: 'car', 2: 'motorbike', 3: 'person', 4: 'truck'}"}
    assert [i.name for i in graph.graph.input] == ["images"] and [o.name for o in graph.graph.output] == ["output0"]
    kinds = {n.op_type for n in graph.graph.node}
    assert not kinds & {"BatchNormalization", "NonMaxSuppression"}
    if not dynamic:
        assert not kinds & {"Expand", "Shape", "Where", "Range"}


def test_half_and_bytes(model, tmp_path):
    export_model(model, NAMES, tmp_path / "u8.onnx", 96, 17, False, False, "u8", None)
    boxes, scores = compare(model, tmp_path / "u8.onnx", 96, 96, "u8", False, None)
    assert boxes < 0.05 and scores < 1e-4
    export_model(model, NAMES, tmp_path / "half.onnx", 96, 17, False, True, "f32", None)
    session = ort.InferenceSession(str(tmp_path / "half.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float16)"
    boxes, scores = compare(model, tmp_path / "half.onnx", 96, 96, "f32", True, None)
    assert boxes < 2.0 and scores < 0.02
    sizes = [(tmp_path / n).stat().st_size for n in ("half.onnx", "u8.onnx")]
    assert sizes[0] < 0.55 * sizes[1]
    assert np.isfinite([boxes, scores]).all()


def test_int8_is_calibrated_and_keeps_the_metadata(model, tmp_path):
    import cv2

    from ocelli_train.int8 import quantise

    with pytest.raises(InputError, match="no such folder"):
        quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", tmp_path / "none", 4)
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), noise)
    export_model(model, NAMES, tmp_path / "m.onnx", 96, 17, False, False, "f32", None)
    quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", tmp_path, 4)
    graph = onnx.load(str(tmp_path / "q.onnx"))
    assert {p.key for p in graph.metadata_props} == {"stride", "names"}
    kinds = [n.op_type for n in graph.graph.node]
    assert kinds.count("QuantizeLinear") > 50 and kinds.count("DequantizeLinear") > 50
    assert (tmp_path / "q.onnx").stat().st_size < 0.4 * (tmp_path / "m.onnx").stat().st_size
    _, scores = compare(model, tmp_path / "q.onnx", 96, 96, "f32", False, tmp_path / "0.png")
    assert scores < 0.2


def test_side_must_fit_the_stride(model, tmp_path):
    with pytest.raises(InputError, match="multiple of the model's stride 32"):
        export_model(model, NAMES, tmp_path / "m.onnx", 100, 17, False, False, "f32", None)


def state(model: Model) -> dict:
    weights = model.state_dict()
    return {"model_yaml": model.text, "names": NAMES, "weights": weights, "ema": dict(weights), "progress": {}}


def test_checkpoint_round_trip_and_faults(model, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, state(model))
    again, names, _ = checkpoint.load_model(path)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.predict(x), model.predict(x))
    assert names == NAMES

    broken = state(model)
    first = next(iter(broken["ema"]))
    del broken["ema"][first]
    checkpoint.save(path, broken)
    with pytest.raises(InputError, match=f"last.pt: ema.{first}: missing"):
        checkpoint.load_model(path)
    broken = state(model)
    broken["ema"][first] = torch.zeros(3)
    checkpoint.save(path, broken)
    with pytest.raises(InputError, match=f"ema.{first}: has shape"):
        checkpoint.load_model(path)
    broken = state(model)
    del broken["names"]
    checkpoint.save(path, broken)
    with pytest.raises(InputError, match="last.pt: names"):
        checkpoint.load_model(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoint.load_model(path)
