from pathlib import Path

import pytest
import torch

from ocelli_train.loss import Weights, complete_iou, detection_loss, match
from ocelli_train.model import Model

MODELS = Path(__file__).parents[1] / "models"


def test_complete_iou_of_equal_and_distant_boxes():
    a = torch.tensor([[5.0, 5, 4, 2], [5, 5, 4, 2]])
    b = torch.tensor([[5.0, 5, 4, 2], [50, 50, 4, 2]])
    same, far = complete_iou(a, b).tolist()
    assert same == pytest.approx(1.0, abs=1e-5)
    assert -1.0 <= far < -0.5


def test_a_box_is_matched_to_three_cells_of_the_fitting_anchor():
    anchors = torch.tensor([[1.0, 1.0], [20.0, 20.0]])
    m = match(torch.tensor([[0, 2, 0.53, 0.58, 0.1, 0.1]]), 10, 10, anchors, 4.0)
    assert m.anchor.tolist() == [0, 0, 0] and m.label.tolist() == [2, 2, 2]
    assert sorted(zip(m.x.tolist(), m.y.tolist())) == [(4, 5), (5, 5), (5, 6)]
    assert bool((m.box[:, :2] >= -0.5).all()) and bool((m.box[:, :2] <= 1.5).all())


def test_a_box_at_the_border_stays_inside():
    m = match(torch.tensor([[0, 0, 0.01, 0.99, 0.1, 0.1]]), 10, 10, torch.tensor([[1.0, 1.0]]), 4.0)
    assert sorted(zip(m.x.tolist(), m.y.tolist())) == [(0, 9)]


def test_the_loss_falls_on_one_batch():
    torch.manual_seed(0)
    model = Model.load(MODELS / "yolov5s_efficientnetv2_corrected.yaml", nc=5, drop_path=0.0).train()
    images = torch.rand(2, 3, 64, 64)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.5], [1, 3, 0.3, 0.6, 0.3, 0.2]])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss, _ = detection_loss(model(images), targets, model.detect, Weights())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_no_objects_give_a_finite_loss():
    model = Model.load(MODELS / "yolov5s_efficientnetv2_corrected.yaml", nc=5).train()
    loss, parts = detection_loss(model(torch.rand(2, 3, 64, 64)), torch.zeros(0, 6), model.detect, Weights())
    assert bool(torch.isfinite(loss)) and parts["box"] == 0.0
