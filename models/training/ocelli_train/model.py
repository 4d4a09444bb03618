"""Reads a YOLOv5-style model file and builds the network that it describes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from .blocks import C3, SPPF, BN_EPS, BN_MOMENTUM, Concat, Conv, Detect, FusedMBConv, MBConv, Stem, Style
from .errors import InputError

MODULES = ("Conv", "stem", "FusedMBConv", "MBConv", "C3", "SPPF", "Concat", "nn.Upsample", "Detect")
_WIDE = ("Conv", "stem", "FusedMBConv", "MBConv", "C3", "SPPF")


@dataclass(frozen=True)
class LayerInfo:
    """One row of the summary."""

    index: int
    source: int | list[int]
    repeats: int
    module: str
    args: list[Any]
    params: int
    line: int


def round_channels(channels: float, multiple: int = 8) -> int:
    return int(math.ceil(channels / multiple) * multiple)


class _File:
    """The parsed file together with the line of every layer and key."""

    def __init__(self, text: str, name: str):
        self.name = name
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.values = yaml.safe_load(text)
        except yaml.MarkedYAMLError as e:
            line = e.problem_mark.line + 1 if e.problem_mark else None
            raise InputError(f"not YAML: {e.problem}", where=name, line=line) from e
        if not isinstance(self.values, dict) or not isinstance(root, yaml.MappingNode):
            raise InputError("a model file is a mapping with backbone and head", where=name, line=1)
        self.lines: dict[str, int] = {}
        self.layer_lines: list[int] = []
        layers: dict[str, list[int]] = {}
        for k, v in root.value:
            self.lines[k.value] = k.start_mark.line + 1
            if k.value in ("backbone", "head") and isinstance(v, yaml.SequenceNode):
                layers[k.value] = [n.start_mark.line + 1 for n in v.value]
        self.layer_lines = layers.get("backbone", []) + layers.get("head", [])

    def error(self, message: str, key: str, line: int | None = None) -> InputError:
        return InputError(message, where=self.name, line=line or self.lines.get(key), key=key)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise self.error(f"must be a number above 0, is {value!r}", key)
        return float(value)


class Model(nn.Module):
    """The network; ``forward`` gives raw maps, ``predict`` decoded boxes."""

    def __init__(self, text: str, name: str = "model", nc: int | None = None, drop_path: float | None = None):
        super().__init__()
        self.text = text
        self.name = name
        file = _File(text, name)
        self.nc = nc if nc is not None else int(file.number("nc"))
        layers, self.infos, self.saved = _build(file, self.nc, drop_path)
        self.layers = nn.ModuleList(layers)
        detect = self.layers[-1]
        assert isinstance(detect, Detect)
        self.detect: Detect = detect
        self._find_strides()
        self._initialise()

    @staticmethod
    def load(path: str | Path, nc: int | None = None, drop_path: float | None = None) -> "Model":
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as e:
            raise InputError(f"cannot read the model file: {e.strerror}", where=str(path)) from e
        return Model(text, str(path), nc, drop_path)

    @property
    def strides(self) -> list[int]:
        return self.detect.strides

    def features(self, x: Tensor, want: tuple[int, ...] = ()) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Raw maps, and the outputs of the layers in ``want`` (for distillation)."""
        outputs: list[Tensor | None] = []
        wanted: dict[int, Tensor] = {}
        y: Any = x
        for info, layer in zip(self.infos, self.layers):
            source = info.source
            if isinstance(source, list):
                y = [y if s == -1 else outputs[s] for s in source]
            elif source != -1:
                y = outputs[source]
            y = layer(y)
            outputs.append(y if info.index in self.saved else None)
            if info.index in want:
                wanted[info.index] = y
        return y, wanted

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.features(x)[0]

    def predict(self, x: Tensor) -> Tensor:
        return self.detect.decode(self(x))

    def _find_strides(self) -> None:
        side = 256
        was = self.training
        self.eval()
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, side, side))
        self.train(was)
        self.detect.strides = [side // int(m.shape[2]) for m in maps]

    def _initialise(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps, m.momentum = BN_EPS, BN_MOMENTUM
                m.reset_running_stats()
        # Start near the prior: about eight objects an image of 640 px, classes equally rare.
        for conv, stride in zip(self.detect.convs, self.detect.strides):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            with torch.no_grad():
                bias = conv.bias.view(self.detect.na, -1)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))

    def gflops(self, side: int = 640) -> float:
        """Multiply-adds of the convolutions, counted twice, at a square input."""
        total = 0
        hooks = []

        def count(m: nn.Module, _: Any, out: Tensor) -> None:
            nonlocal total
            assert isinstance(m, nn.Conv2d)
            k = m.kernel_size[0] * m.kernel_size[1] * m.in_channels // m.groups
            total += 2 * k * out.numel()

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                hooks.append(m.register_forward_hook(count))
        was = self.training
        self.eval()
        with torch.no_grad():
            self(torch.zeros(1, 3, side, side))
        self.train(was)
        for h in hooks:
            h.remove()
        return total / 1e9

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def summary(self) -> str:
        rows = [f"{'':>3}{'from':>16}  {'n':>2}{'params':>10}  {'module':<14}arguments"]
        for i in self.infos:
            rows.append(f"{i.index:>3}{str(i.source):>16}  {i.repeats:>2}{i.params:>10}  {i.module:<14}{i.args}")
        rows.append(
            f"{len(self.infos)} layers, {self.parameter_count()} parameters, "
            f"{self.gflops():.1f} GFLOPs in convolutions at 640x640, strides {self.strides}"
        )
        return "\n".join(rows)


def _build(
    file: _File, nc: int, drop_path: float | None
) -> tuple[list[nn.Module], list[LayerInfo], set[int]]:
    values = file.values
    depth = file.number("depth_multiple", 1.0)
    width = file.number("width_multiple", 1.0)
    style: Style = values.get("block_style", "document")
    if style not in ("document", "paper"):
        raise file.error(f"must be document or paper, is {style!r}", "block_style")
    drop = float(values.get("drop_path", 0.0)) if drop_path is None else drop_path
    if not 0 <= drop < 1:
        raise file.error(f"must lie in 0..1, is {drop}", "drop_path")
    anchors = values.get("anchors")
    if (
        not isinstance(anchors, list)
        or not anchors
        or any(not isinstance(a, list) or not a or len(a) % 2 or len(a) != len(anchors[0]) for a in anchors)
    ):
        raise file.error("must be a list of equally long lists of width, height pairs", "anchors")
    rows: list[Any] = []
    for key in ("backbone", "head"):
        part = values.get(key)
        if not isinstance(part, list) or not part:
            raise file.error("missing or empty list of layers", key)
        rows += part

    def repeats_of(n: int) -> int:
        return max(round(n * depth), 1) if n > 1 else n

    blocks = 0
    for index, row in enumerate(rows):
        where = f"layer {index}"
        line = file.layer_lines[index] if index < len(file.layer_lines) else None
        if not isinstance(row, list) or len(row) != 4:
            raise file.error("must be [from, number, module, args]", where, line)
        if isinstance(row[1], bool) or not isinstance(row[1], int) or row[1] < 1:
            raise file.error(f"number must be a whole number above 0, is {row[1]!r}", where, line)
        if row[2] not in MODULES:
            raise file.error(f"unknown module {row[2]!r}; known are {', '.join(MODULES)}", where, line)
        if not isinstance(row[3], list):
            raise file.error(f"args must be a list, is {row[3]!r}", where, line)
        if row[2] in ("FusedMBConv", "MBConv"):
            blocks += repeats_of(row[1])

    layers: list[nn.Module] = []
    infos: list[LayerInfo] = []
    channels: list[int] = []
    saved: set[int] = set()
    block = 0
    for index, (source, number, module, raw_args) in enumerate(rows):
        line = file.layer_lines[index]
        where = f"layer {index}"
        sources = source if isinstance(source, list) else [source]
        resolved: list[int] = []
        for s in sources:
            if isinstance(s, bool) or not isinstance(s, int):
                raise file.error(f"from must be whole numbers, is {source!r}", where, line)
            absolute = index + s if s < 0 else s
            if absolute >= index or absolute < (-1 if index == 0 else 0):
                raise file.error(f"from {s} points to no earlier layer", where, line)
            resolved.append(absolute)
            if s != -1:
                saved.add(absolute)
        many = isinstance(source, list)
        if many != (module in ("Concat", "Detect")):
            raise file.error(f"{module} takes {'a list' if not many else 'one number'} as from", where, line)
        inputs = [3 if r < 0 else channels[r] for r in resolved]
        args: list[Any] = [None if a == "None" else a for a in raw_args]
        repeats = repeats_of(number)
        modules: list[nn.Module] = []
        try:
            if module in _WIDE:
                c1, c2 = inputs[0], round_channels(args[0] * width)
                rest = args[1:]
                if module == "C3":
                    shown: list[Any] = [c1, c2, repeats, *rest]
                    modules = [C3(c1, c2, repeats, *rest)]
                else:
                    shown = [c1, c2, *rest]
                    for r in range(repeats):
                        cin = c1 if r == 0 else c2
                        if module in ("FusedMBConv", "MBConv"):
                            rate = drop if style == "document" else drop * block / max(blocks, 1)
                            kind = FusedMBConv if module == "FusedMBConv" else MBConv
                            modules.append(kind(cin, c2, *rest, style=style, drop=rate))
                            block += 1
                        elif module == "Conv":
                            modules.append(Conv(cin, c2, *rest))
                        elif module == "stem":
                            modules.append(Stem(cin, c2, *rest))
                        else:
                            modules.append(SPPF(cin, c2, *rest))
            elif module == "Concat":
                shown, c2 = args, sum(inputs)
                modules = [Concat(*args)]
            elif module == "nn.Upsample":
                shown, c2 = args, inputs[0]
                modules = [nn.Upsample(*args)]
            else:
                if index != len(rows) - 1:
                    raise file.error("Detect must be the last layer", where, line)
                if len(anchors) != len(inputs):
                    raise file.error(f"{len(anchors)} anchor rows for {len(inputs)} inputs", where, line)
                shown, c2 = [nc, anchors, inputs], 0
                modules = [Detect(nc, anchors, inputs)]
        except (TypeError, ValueError, IndexError) as e:
            raise file.error(f"{module} cannot be built from {raw_args}: {e}", where, line) from e
        layer = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        params = sum(p.numel() for p in layer.parameters())
        keep: int | list[int] = (
            [-1 if s == -1 else r for s, r in zip(sources, resolved)] if many else (-1 if source == -1 else resolved[0])
        )
        layers.append(layer)
        infos.append(LayerInfo(index, keep, repeats, module, shown, params, line))
        channels.append(c2)
    if not isinstance(layers[-1], Detect):
        raise file.error("the last layer must be Detect", f"layer {len(rows) - 1}", file.layer_lines[-1])
    return layers, infos, saved
