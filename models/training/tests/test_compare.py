"""The comparison end to end, on a few made-up images."""

import dataclasses
import json
import stat
from pathlib import Path

import pytest
import torch
from test_cli import MODELS, TINY, data, run  # noqa: F401  (data is a fixture)

from ocelli_train import checkpoint
from ocelli_train import compare as module
from ocelli_train.errors import InputError
from ocelli_train.train import train

OTHER = TINY.replace("[24, 3, 2, 4, 0.25]", "[40, 3, 2, 4, 0.25]")
ROWS = ["parameters", "strides", "GFLOPs at 640", "GFLOPs at 64", "iterations", "training, CPU s per 1000 images",
        "training, CPU s per epoch", "mAP50, set:valid", "mAP50-95, set:valid",
        "ONNX Runtime at 64, CPU ms per picture", "tract at 64, CPU ms per picture"]  # fmt: skip


def args(data: Path, *more: object) -> list[object]:
    (data / "other.yaml").write_text(OTHER)
    return ["compare", "--data", data / "data.yaml", "--out", data / "c", "--img", 64, "--measure", "set:valid",
            "--threads", 1, "--models", f"{data}/tiny.yaml,{data}/other.yaml", *more]  # fmt: skip


def test_equal_budget_full_table_and_resume(data, monkeypatch, capsys):
    monkeypatch.setattr(module, "TURN", 2)
    assert run(monkeypatch, *args(data, "--iterations", 3)) == 0
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out[out.index("|  | tiny | other |") :].strip().splitlines()]
    assert [r[0].lstrip("| ") for r in rows[2:]] == ROWS and all(len(r) == 3 for r in rows[2:])
    assert rows[-1][1:] == ["not measured", "not measured |"]
    whole = json.loads((data / "c/compare.json").read_text())
    tiny, other = whole["models"]["tiny"], whole["models"]["other"]
    assert tiny["iterations"] == other["iterations"] == 3 and tiny["batches"] == other["batches"]
    assert tiny["parameters"] < other["parameters"] and tiny["gflops"] < other["gflops"] < other["gflops_640"]
    assert all(m["cpu_s"] > 0 and m["ort_cpu_ms"] > 0 and m["strides"] == [8, 16] for m in (tiny, other))
    # 3 iterations of 2 images; an epoch has 2 iterations.
    assert tiny["cpu_s_per_1000_images"] == pytest.approx(tiny["cpu_s"] * 1000 / 6)
    assert tiny["cpu_s_per_epoch"] == pytest.approx(tiny["cpu_s"] / 3 * 2)

    # What is finished stays; what is missing is trained.
    (data / "c/other/result.json").unlink()
    for name in ("last.pt", "model.onnx"):
        (data / "c/other" / name).unlink()
    assert run(monkeypatch, *args(data, "--iterations", 3, "--resume")) == 0
    out = capsys.readouterr().out
    assert "tiny: already trained and measured" in out and "tiny: to iteration" not in out
    assert "other: to iteration 3 of 3" in out
    again = json.loads((data / "c/compare.json").read_text())["models"]["other"]
    assert again["map50"] == other["map50"] and again["batches"] == other["batches"]

    assert run(monkeypatch, *args(data, "--iterations", 4, "--resume")) == 2
    assert "result.json: iterations: was 3, is now 4; choose another --out" in capsys.readouterr().err


def test_interrupted_goes_on_only_with_resume(data, monkeypatch, capsys):
    monkeypatch.setattr(module, "TURN", 2)
    real, calls = train, []

    def stops(options):
        calls.append(options)
        return real(dataclasses.replace(options, pause_at=1) if len(calls) == 2 else options)

    monkeypatch.setattr(module, "train", stops)
    assert run(monkeypatch, *args(data, "--iterations", 3)) == 2
    assert "other/last.pt: stopped at iteration 1; go on with --resume" in capsys.readouterr().err
    assert run(monkeypatch, *args(data, "--iterations", 3)) == 2
    assert "from an unfinished comparison; give --resume" in capsys.readouterr().err
    assert run(monkeypatch, *args(data, "--iterations", 3, "--resume")) == 0
    models = json.loads((data / "c/compare.json").read_text())["models"]
    assert [m["iterations"] for m in models.values()] == [3, 3]
    # Turns, interruption and resuming change nothing: one straight run ends at the same weights.
    straight = dataclasses.replace(calls[0], out=data / "straight", pause_at=None, resume=False)
    ours = checkpoint.read(data / "c/tiny/last.pt")["weights"]
    theirs = checkpoint.read(real(straight))["weights"]
    assert all(torch.allclose(ours[k].float(), theirs[k].float(), atol=1e-5) for k in theirs)


def test_runtime_is_tried_first_and_timed(data, monkeypatch, capsys):
    binary = data / "ocelli"
    binary.write_text("#!/bin/sh\necho no such backend >&2; exit 3\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    assert run(monkeypatch, *args(data, "--iterations", 2, "--ocelli", binary)) == 2
    assert "--ocelli: fails on tiny.onnx: no such backend" in capsys.readouterr().err
    assert not (data / "c/tiny").exists()
    binary.write_text("#!/bin/sh\necho '{\"backend\":\"tract\"}'\n")
    assert run(monkeypatch, *args(data, "--iterations", 2, "--ocelli", binary)) == 0
    assert "not measured" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--models", "none.yaml"], "none.yaml: cannot read the model file"),
        (["--models", f"{MODELS}/yolov5s.yaml,{MODELS}/yolov5s.yaml"], "--models: two files are called yolov5s"),
        (["--img", 96, "--models", f"{MODELS}/yolov5s_EfficientNetv2.yaml"], "--img: 96 is no multiple of"),
        (["--measure", "set"], "--measure: 'set' is not FOLDER:SPLIT"),
        (["--measure", "set:none"], "split: no such folder"),
        (["--ocelli", "none"], "none: --ocelli: cannot be run"),
    ],
)
def test_wrong_input_is_told_before_training(more, word, data, monkeypatch, capsys):
    assert run(monkeypatch, *args(data, *more)) == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1
    assert not (data / "c").exists()


def test_layers_that_a_teacher_needs(data):
    from ocelli_train.distill import student_layers
    from ocelli_train.model import Model

    found = {p.stem: student_layers(Model.load(p)) for p in MODELS.glob("*.yaml")}
    assert found == {
        "yolov5s": (4, 6, 9, 17, 20, 23),
        "yolov5s_EfficientNetv2": (7, 9, 12, 20, 23, 26),
        "yolov5s_efficientnetv2_corrected": (5, 9, 12, 20, 23, 26),
    }
    with pytest.raises(InputError, match="a teacher needs one SPPF"):
        student_layers(Model.load(data / "tiny.yaml"))
