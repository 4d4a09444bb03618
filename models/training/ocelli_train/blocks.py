"""The building blocks that a model file can name."""

from __future__ import annotations

from typing import Literal, Sequence

import torch
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.03

Style = Literal["document", "paper"]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


class Conv(nn.Module):
    """Convolution, batch norm, SiLU (or no activation where ``act`` is false)."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, groups: int = 1, act: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=groups, bias=False)
        self.bn = _norm(c2)
        self.act: nn.Module = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Stem(Conv):
    """The document's name for a convolution without the padding argument."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__(c1, c2, k, s)


class DropPath(nn.Module):
    """Drops the residual branch of whole samples while training."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)


class SqueezeExcite(nn.Module):
    """Channel attention: global mean, two 1x1 convolutions, sigmoid gate."""

    def __init__(self, channels: int, reduced: int, act: nn.Module):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.act = act
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # A plain broadcast: `expand_as` would leave a Shape-Expand chain in the exported graph.
        return x * self.expand(self.act(self.reduce(self.pool(x)))).sigmoid()


class FusedMBConv(nn.Module):
    """One full convolution does the work of expansion and depthwise convolution."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        expansion: int = 1,
        se_ratio: float = 0.0,
        *,
        style: Style = "paper",
        drop: float = 0.0,
    ):
        super().__init__()
        if se_ratio:
            raise ValueError("FusedMBConv has no squeeze-excite; its ratio must be 0")
        wide = c1 * expansion
        if expansion == 1:
            self.body = nn.Sequential(Conv(c1, c2, k, s))
        else:
            self.body = nn.Sequential(Conv(c1, wide, k, s), Conv(wide, c2, 1, act=style == "document"))
        self.residual = s == 1 and c1 == c2
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + self.drop(y) if self.residual else y


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise, squeeze-excite, 1x1 projection."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        expansion: int = 1,
        se_ratio: float = 0.0,
        *,
        style: Style = "paper",
        drop: float = 0.0,
    ):
        super().__init__()
        wide = c1 * expansion
        layers: list[nn.Module] = [Conv(c1, wide, 1), Conv(wide, wide, k, s, groups=wide)]
        if se_ratio > 0:
            if style == "document":
                layers.append(SqueezeExcite(wide, int(wide * se_ratio), nn.ReLU(inplace=True)))
            else:
                layers.append(SqueezeExcite(wide, max(1, int(c1 * se_ratio)), nn.SiLU(inplace=True)))
        layers.append(Conv(wide, c2, 1, act=style == "document"))
        self.body = nn.Sequential(*layers)
        self.residual = s == 1 and c1 == c2
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + self.drop(y) if self.residual else y


class Bottleneck(nn.Module):
    """1x1 then 3x3, with a shortcut where asked for and possible."""

    def __init__(self, c: int, shortcut: bool):
        super().__init__()
        self.body = nn.Sequential(Conv(c, c, 1), Conv(c, c, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Two half-width paths, one through ``n`` bottlenecks, joined by a 1x1 convolution."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True):
        super().__init__()
        half = c2 // 2
        self.deep = nn.Sequential(Conv(c1, half), *(Bottleneck(half, shortcut) for _ in range(n)))
        self.skip = Conv(c1, half)
        self.join = Conv(2 * half, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.deep(x), self.skip(x)), 1))


class SPPF(nn.Module):
    """Three chained max-pools see three growing windows."""

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__()
        half = c1 // 2
        self.squeeze = Conv(c1, half)
        self.pool = nn.MaxPool2d(k, 1, k // 2)
        self.join = Conv(4 * half, c2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.squeeze(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.join(torch.cat(parts, 1))


class Concat(nn.Module):
    def __init__(self, dimension: int = 1):
        super().__init__()
        self.dimension = dimension

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(x), self.dimension)


class Detect(nn.Module):
    """One 1x1 convolution a level; ``decode`` turns its raw maps into boxes in input pixels."""

    anchors: Tensor

    def __init__(self, nc: int, anchors: Sequence[Sequence[float]], channels: Sequence[int]):
        super().__init__()
        self.nc = nc
        self.no = 5 + nc
        self.na = len(anchors[0]) // 2
        self.strides: list[int] = []
        self.convs = nn.ModuleList(nn.Conv2d(c, self.na * self.no, 1) for c in channels)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(anchors), self.na, 2)
        self.register_buffer("anchors", pixels, persistent=False)
        # Filled by a static export, so that the grids become constants of the graph.
        self.fixed_grids: list[Tensor] | None = None

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Raw maps as [batch, anchor, y, x, 5 + nc]."""
        out = []
        for conv, x in zip(self.convs, maps):
            y = conv(x)
            _, _, ny, nx = y.shape
            out.append(y.view(-1, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2))
        return out

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        """[batch, boxes, 5 + nc]: centre x, centre y, width, height, objectness, classes."""
        rows = []
        for level, x in enumerate(raw):
            ny, nx = x.shape[2], x.shape[3]
            grid = self.fixed_grids[level] if self.fixed_grids is not None else make_grid(ny, nx, x)
            y = x.sigmoid()
            stride = float(self.strides[level])
            xy = (y[..., 0:2] * 2.0 - 0.5 + grid) * stride
            two = y[..., 2:4] * 2.0
            wh = two * two * self.anchors[level].view(1, self.na, 1, 1, 2)
            rows.append(torch.cat((xy, wh, y[..., 4:]), -1).reshape(-1, self.na * ny * nx, self.no))
        return torch.cat(rows, 1)


def make_grid(ny: int, nx: int, like: Tensor) -> Tensor:
    """Cell indices as [1, 1, y, x, 2] with x first."""
    ys = torch.arange(ny, device=like.device, dtype=torch.float32).to(like.dtype)
    xs = torch.arange(nx, device=like.device, dtype=torch.float32).to(like.dtype)
    gy, gx = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((gx, gy), -1).view(1, 1, ny, nx, 2)
