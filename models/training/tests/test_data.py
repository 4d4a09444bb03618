from pathlib import Path

import cv2
import numpy as np
import pytest

from ocelli_train.boxes import iou_matrix, letterbox, nms
from ocelli_train.data import Batches, DataConfig, Source, _place, load_config, load_split, read_labels
from ocelli_train.errors import InputError


def folder(tmp_path: Path, labels: str = "0 0.5 0.5 0.5 0.5\n") -> Path:
    for part in ("images", "labels"):
        (tmp_path / part / "train").mkdir(parents=True)
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[15:45, 20:60] = 255
    cv2.imwrite(str(tmp_path / "images/train/a.png"), image)
    (tmp_path / "labels/train/a.txt").write_text(labels)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n", 2, "class"),
        ("0 0.5 0.5 0.1\n", 1, "5 values"),
        ("0 0.5 1.5 0.1 0.1\n", 1, "y"),
        ("0 0.5 0.5 0 0.1\n", 1, "width"),
        ("0 0.5 nan 0.1 0.1\n", 1, "outside"),
        ("x 0.5 0.5 0.1 0.1\n", 1, "not a number"),
        ("nan 0.5 0.5 0.1 0.1\n", 1, "class"),
    ],
)
def test_label_errors_name_file_line_and_key(tmp_path, text, line, word):
    path = folder(tmp_path, text) / "labels/train/a.txt"
    with pytest.raises(InputError) as e:
        read_labels(path, 5)
    assert f"a.txt:{line}" in str(e.value) and word in str(e.value)


def test_missing_and_broken_images(tmp_path):
    root = folder(tmp_path)
    (root / "labels/train/b.txt").write_text("")
    with pytest.raises(InputError, match="b.txt: its image is missing"):
        load_split(root, "train", 5)
    (root / "images/train/b.jpg").write_bytes(b"no image")
    config = DataConfig(["x"] * 5, [Source(root, "train", 2, (1.0, 1.0), 0.0)], None)
    with pytest.raises(InputError, match="b.jpg: cannot read the image"):
        Batches(config, 0).next(64, mosaic=False)
    with pytest.raises(InputError, match="no such folder"):
        load_split(root, "valid", 5)


def test_data_file_errors(tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text("names: [a]\nsources:\n  - {root: x, share: many}\n")
    with pytest.raises(InputError, match=r"d.yaml:\d*:? ?sources|sources"):
        load_config(path)
    path.write_text("names: a\n")
    with pytest.raises(InputError, match="d.yaml:1: names"):
        load_config(path)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_the_pixels(flip):
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[10:30, 10:40] = 255
    boxes = np.array([[3, 10, 10, 40, 30]], dtype=np.float32)
    out, kept = _place(image, boxes, 100, 100, 1.0, 12.0, 5.0, flip)
    ys, xs = np.nonzero(out[:, :, 0] > 200)
    assert kept[0].tolist() == pytest.approx([3, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=1.01)


def test_batches_hold_the_mix_and_fractions(tmp_path):
    config = DataConfig(["x"] * 5, [Source(folder(tmp_path), "train", 3, (0.8, 1.2), 1.0)], None)
    images, targets = Batches(config, 1).next(64, mosaic=True)
    assert tuple(images.shape) == (3, 3, 64, 64) and float(images.max()) <= 1.0
    assert set(targets[:, 0].tolist()) <= {0.0, 1.0, 2.0}
    assert bool((targets[:, 2:] >= 0).all()) and bool((targets[:, 2:] <= 1).all())


def test_letterbox_pads_evenly():
    out, place = letterbox(np.full((60, 80, 3), 7, dtype=np.uint8), 160, 160)
    assert (place.scale, place.left, place.top) == (2.0, 0, 20)
    assert out[0, 0, 0] == 114 and out[20, 0, 0] == 7


def test_nms_keeps_other_classes():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [1, 1, 10, 10]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    assert nms(boxes, scores, np.array([0, 0, 1]), 0.5) == [0, 2]
    assert iou_matrix(boxes[:1], boxes[1:2])[0, 0] == pytest.approx(0.81)
