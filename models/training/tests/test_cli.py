"""The verbs end to end, on a few made-up images."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ocelli_train.__main__ import main

MODELS = Path(__file__).parents[1] / "models"

TINY = """nc: 2
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
block_style: paper
backbone:
  - [-1, 1, stem, [8, 3, 2]]
  - [-1, 1, FusedMBConv, [16, 3, 2, 4, 0]]
  - [-1, 1, MBConv, [24, 3, 2, 4, 0.25]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc, anchors]]
"""


def run(monkeypatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ocelli_train", *(str(a) for a in args)])
    return main()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for part in ("images", "labels"):
            (tmp_path / "set" / part / split).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            image[20:44, 16:48] = (250, 250, 250)
            cv2.imwrite(str(tmp_path / f"set/images/{split}/{i}.png"), image)
            (tmp_path / f"set/labels/{split}/{i}.txt").write_text("1 0.5 0.5 0.5 0.375\n")
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "data.yaml").write_text(
        "names: [a, b]\nsources:\n  - {root: set, share: 2}\nvalidate: {root: set, split: valid}\n"
    )
    return tmp_path


def test_train_resume_eval_export(data, monkeypatch, capsys):
    common = ["train", "--model", data / "tiny.yaml", "--data", data / "data.yaml", "--out", data / "run"]
    common += ["--img", "0:32,0.5:64", "--threads", 1, "--save-every", 10, "--eval-every", 10]
    assert run(monkeypatch, *common, "--epochs", 20) == 0
    assert (data / "run/last.pt").is_file() and (data / "run/loss.png").is_file()
    rows = [json.loads(t) for t in (data / "run/log.jsonl").read_text().splitlines()]
    assert sum("map50" in r for r in rows) == 2
    assert [r["side"] for r in rows if "side" in r] == [32, 64]
    assert run(monkeypatch, *common, "--epochs", 21, "--resume") == 0  # begins where the first run ended
    assert "resumed at iteration 40" in capsys.readouterr().out

    out = data / "m.onnx"
    assert run(monkeypatch, "export", "--weights", data / "run/last.pt", "--out", out, "--img", 64) == 0
    values = []
    for weights in (data / "run/last.pt", out):
        a = ["eval", "--weights", weights, "--data", data / "set", "--split", "valid", "--names", "a,b"]
        assert run(monkeypatch, *a, "--img", 64, "--json", data / "e.json", "--plot", data / "pr.png") == 0
        values.append(json.loads((data / "e.json").read_text())["map50_95"])
    assert values[0] == pytest.approx(values[1], abs=0.002)

    pack = ["pack", "--weights", data / "run/last.pt", "--out", data / "my-model", "--img", 64, "--license", "CC0-1.0"]
    pack += ["--source", "made: up", "--measure", f"a={data}/set:valid", "--measure", f"b={data}/set:valid:b"]
    assert run(monkeypatch, *pack) == 0
    manifest = yaml.safe_load((data / "my-model/model.yaml").read_text())
    assert manifest["sha256"] == hashlib.sha256((data / "my-model/model.onnx").read_bytes()).hexdigest()
    assert (manifest["name"], manifest["labels"], manifest["strides"]) == ("my-model", ["a", "b"], [8, 16])
    assert set(manifest["accuracy"]) == {"a_map50", "a_map50_95", "b_b_ap50"} and manifest["source"] == "made: up"


def test_perfect_and_shifted_boxes_score_as_they_should(data):
    from ocelli_train.eval import evaluate

    def answer(x):
        return lambda _: np.array([[16 + x, 20, 48 + x, 44, 0.9, 1]], dtype=np.float32)

    perfect = evaluate(answer(0), data / "set", "valid", ["a", "b"])
    assert (perfect.map50, perfect.map) == pytest.approx((1.0, 1.0))
    # Shifted by an eighth of the width: IoU 7/9, so 6 of the 10 thresholds hold.
    shifted = evaluate(answer(4), data / "set", "valid", ["a", "b"])
    assert (shifted.map50, shifted.map) == pytest.approx((1.0, 0.6))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["summary", "--model", "none.yaml"], "none.yaml: cannot read the model file"),
        (["eval", "--weights", "none.pt", "--data", "."], "none.pt: no such checkpoint"),
        (["eval", "--weights", "none.onnx", "--data", "."], "none.onnx: no such model"),
        (["label", "--clip", "a.avi", "--teacher", "t.onnx", "--out", "o"], "t.onnx: no such teacher model"),
        (["train", "--model", "m.yaml", "--data", "d.yaml"], "--epochs: give either"),
        (["train", "--model", "m.yaml", "--data", "d.yaml", "--epochs", "1", "--img", "100"], "--img: 100 is no multiple"),
        (["train", "--model", "m.yaml", "--data", "d.yaml", "--until", "noon"], "--until: 'noon' is no HH:MM"),
    ],
)
def test_wrong_input_is_one_line(args, word, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *args) == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1
