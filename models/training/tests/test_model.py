"""The numbers are those that the reference parser printed for the same files."""

from pathlib import Path

import pytest
import torch

from ocelli_train.errors import InputError
from ocelli_train.model import Model

MODELS = Path(__file__).parents[1] / "models"

YOLOV5S = [
    3520, 18560, 18816, 73984, 115712, 295424, 625152, 1180672, 1182720, 656896,
    131584, 0, 0, 361984, 33024, 0, 0, 90880, 147712, 0, 296448, 590336, 0, 1182720, 229245,
]  # fmt: skip
DOCUMENT = [
    464, 2336, 10928, 23280, 24064, 41280, 22432, 138624, 134656, 597000, 125152, 1519800, 149672,
    131584, 0, 0, 316928, 33024, 0, 0, 82688, 147712, 0, 296448, 590336, 0, 1182720, 229245,
]  # fmt: skip
# The reference code gives 5146869 for the corrected blocks; its layers were not printed one by one,
# except those without squeeze-excite and projection, which it shares with the document.
CORRECTED_TOTAL = 5146869


@pytest.mark.parametrize(
    ("file", "params", "total", "strides", "gflops"),
    [
        ("yolov5s.yaml", YOLOV5S, 7235389, [8, 16, 32], 16.6),
        ("yolov5s_EfficientNetv2.yaml", DOCUMENT, 5800373, [16, 32, 64], 5.8),
        ("yolov5s_efficientnetv2_corrected.yaml", None, CORRECTED_TOTAL, [8, 16, 32], 11.8),
    ],
)
def test_layers_equal_the_reference(file, params, total, strides, gflops):
    model = Model.load(MODELS / file)
    if params is not None:
        assert [i.params for i in model.infos] == params
    assert model.parameter_count() == total
    assert model.strides == strides
    # The reference also counts norms and pools; convolutions alone are a little less.
    assert 0.9 * gflops < model.gflops() <= gflops


def test_arguments_are_shown_with_real_channels():
    infos = Model.load(MODELS / "yolov5s_EfficientNetv2.yaml").infos
    assert infos[9].args == [80, 80, 3, 1, 6, 0.25] and infos[9].repeats == 3
    assert infos[11].args == [136, 136, 3, 1, 4, 0.25] and infos[11].repeats == 5
    assert infos[16].args == [336, 256, 1, False]
    assert infos[27].args[2] == [128, 256, 512]


def test_drop_path_grows_only_in_the_paper_style():
    from ocelli_train.blocks import DropPath

    def rates(file):
        return [m.probability for m in Model.load(MODELS / file).modules() if isinstance(m, DropPath)]

    assert set(rates("yolov5s_EfficientNetv2.yaml")) == {0.2}
    grown = rates("yolov5s_efficientnetv2_corrected.yaml")
    assert grown[0] == 0.0 and grown == sorted(grown) and 0.15 < grown[-1] < 0.2


def test_decoded_rows_lie_in_the_input():
    model = Model.load(MODELS / "yolov5s_efficientnetv2_corrected.yaml", nc=5).eval()
    with torch.no_grad():
        rows = model.predict(torch.zeros(2, 3, 64, 96))
    assert rows.shape == (2, 3 * (8 * 12 + 4 * 6 + 2 * 3), 10)
    assert bool((rows[..., 4:] >= 0).all()) and bool((rows[..., 4:] <= 1).all())
    assert float(rows[..., 0].min()) > -16 and float(rows[..., 0].max()) < 96 + 16


GOOD = """nc: 2
anchors: [[10, 13, 16, 30]]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[1], 1, Detect, [nc, anchors]]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("Conv, [16, 3, 2]]\n  - [-1, 1, Conv", "Conv, [16, 3, 2]]\n  - [-1, 1, Konv", 5, "unknown module 'Konv'"),
        ("[[1], 1, Detect", "[[5], 1, Detect", 7, "from 5"),
        ("[[1], 1, Detect", "[1, 1, Detect", 7, "from"),
        ("[-1, 1, Conv, [16, 3, 2]]\n  - ", "[-3, 1, Conv, [16, 3, 2]]\n  - ", 4, "from -3"),
        ("nc: 2", "nc: none", 1, "nc"),
        ("anchors: [[10, 13, 16, 30]]", "anchors: [[10, 13, 16]]", 2, "anchors"),
        ("[-1, 1, Conv, [16, 3, 2]]\n  - ", "[-1, 0, Conv, [16, 3, 2]]\n  - ", 4, "number"),
        ("[-1, 1, Conv, [16, 3, 2]]\n  - ", "[-1, 1, Conv, [16, a]]\n  - ", 4, "cannot be built"),
        ("head:", "head: [", 6, "not YAML"),
    ],
)
def test_errors_name_line_and_key(old, new, line, word):
    Model(GOOD)
    assert old in GOOD
    with pytest.raises(InputError) as e:
        Model(GOOD.replace(old, new, 1), "m.yaml")
    if word == "not YAML":
        assert word in str(e.value)
    else:
        assert f"m.yaml:{line}:" in str(e.value) and word in str(e.value)
