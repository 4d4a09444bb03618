"""Boxes are matched to anchors by their shape; three cells answer for one box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import Detect


@dataclass(frozen=True)
class Weights:
    box: float = 0.05
    objectness: float = 0.25
    classes: float = 0.06
    # The finer a level, the more cells it has and the weaker its mean is.
    levels: tuple[float, ...] = (4.0, 1.0, 0.4)
    # A box fits an anchor where neither side differs by more than this factor.
    ratio: float = 4.0


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """CIoU of xywh boxes: overlap, distance of the centres, difference of the shapes."""
    eps = 1e-7
    half_a, half_b = a[:, 2:] / 2, b[:, 2:] / 2
    a1, a2, b1, b2 = a[:, :2] - half_a, a[:, :2] + half_a, b[:, :2] - half_b, b[:, :2] + half_b
    inner = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - inner + eps
    iou = inner / union
    outer = torch.maximum(a2, b2) - torch.minimum(a1, b1)
    diagonal = outer.square().sum(1) + eps
    distance = (a[:, :2] - b[:, :2]).square().sum(1)
    shape = (4 / math.pi**2) * (
        torch.atan(b[:, 2] / (b[:, 3] + eps)) - torch.atan(a[:, 2] / (a[:, 3] + eps))
    ).square()
    with torch.no_grad():
        alpha = shape / (1 - iou + shape + eps)
    return iou - distance / diagonal - alpha * shape


@dataclass
class Matches:
    """For one level: which prediction answers for which box."""

    image: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    box: Tensor  # offset to the cell, width, height; in cells
    shape: Tensor  # anchor width and height in cells
    label: Tensor


def match(targets: Tensor, nx: int, ny: int, anchors: Tensor, ratio: float) -> Matches:
    """``targets`` [N, 6] as fractions, ``anchors`` [A, 2] in cells."""
    count, na = targets.shape[0], anchors.shape[0]
    size = targets.new_tensor([nx, ny])
    centre = targets[:, 2:4] * size
    shape = targets[:, 4:6] * size
    quotient = shape[None] / anchors[:, None]
    fits = torch.maximum(quotient, 1 / quotient).amax(2) < ratio
    anchor_index, target_index = fits.nonzero(as_tuple=True)
    assert fits.shape == (na, count)
    c = centre[target_index]
    cell = c.floor()
    part = c - cell
    # Beside its own cell, the nearer horizontal and the nearer vertical neighbour.
    step_x = torch.where(part[:, 0] < 0.5, -1.0, 1.0)
    step_y = torch.where(part[:, 1] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(step_x)
    moves = torch.stack((torch.stack((zero, zero), 1), torch.stack((step_x, zero), 1), torch.stack((zero, step_y), 1)))
    cells = cell[None] + moves
    inside = ((cells >= 0) & (cells < size)).all(2)
    which = inside.nonzero(as_tuple=True)
    chosen = cells[which]
    t, a = target_index[which[1]], anchor_index[which[1]]
    return Matches(
        image=targets[t, 0].long(),
        anchor=a,
        y=chosen[:, 1].long(),
        x=chosen[:, 0].long(),
        box=torch.cat((centre[t] - chosen, shape[t]), 1),
        shape=anchors[a],
        label=targets[t, 1].long(),
    )


def detection_loss(raw: Sequence[Tensor], targets: Tensor, head: Detect, weights: Weights) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of a batch and its parts."""
    zero = raw[0].new_zeros(())
    box_loss, object_loss, class_loss = zero, zero, zero
    for level, x in enumerate(raw):
        _, _, ny, nx, _ = x.shape
        m = match(targets, nx, ny, head.anchors[level] / float(head.strides[level]), weights.ratio)
        wanted = torch.zeros_like(x[..., 4])
        if len(m.image):
            rows = x[m.image, m.anchor, m.y, m.x]
            xy = rows[:, :2].sigmoid() * 2 - 0.5
            wh = (rows[:, 2:4].sigmoid() * 2).square() * m.shape
            quality = complete_iou(torch.cat((xy, wh), 1), m.box)
            box_loss = box_loss + (1 - quality).mean()
            # Where two boxes want one prediction, the better fit counts: written last.
            score = quality.detach().clamp(0)
            order = score.argsort()
            wanted[m.image[order], m.anchor[order], m.y[order], m.x[order]] = score[order]
            classes = F.one_hot(m.label, head.nc).to(rows.dtype)
            class_loss = class_loss + F.binary_cross_entropy_with_logits(rows[:, 5:], classes)
        balance = weights.levels[level] if level < len(weights.levels) else 1.0
        object_loss = object_loss + F.binary_cross_entropy_with_logits(x[..., 4], wanted) * balance
    box_loss = box_loss * weights.box
    object_loss = object_loss * weights.objectness
    class_loss = class_loss * weights.classes
    total = box_loss + object_loss + class_loss
    return total, {"box": float(box_loss), "obj": float(object_loss), "cls": float(class_loss)}
