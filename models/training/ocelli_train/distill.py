"""The student's features regress those of a YOLOX teacher while its own weights are still raw."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from .errors import InputError
from .model import Model

# Tensors of the published yolox_nano.onnx at strides 8, 16, 32: backbone, neck, and what
# classes and boxes are read from.
TEACHER_FEATURES = ("781", "841", "886", "956", "990", "1024",
                    "1044", "1086", "1128", "1061", "1103", "1145")  # fmt: skip
# For each of the teacher's tensors, which of the student's layers regresses it.
PAIRS = (0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5)


def student_layers(model: Model) -> tuple[int, ...]:
    """The backbone's three scales and the three that boxes are read from, finest first."""
    pools = [i.index for i in model.infos if i.module == "SPPF"]
    heads = model.infos[-1].source
    if len(pools) == 1 and isinstance(heads, list) and len(heads) == 3:
        joined = {s for i in model.infos if i.module == "Concat" and isinstance(i.source, list) for s in i.source}
        backbone = sorted(s for s in joined if 0 <= s < pools[0])
        if len(backbone) == 2:
            return (*backbone, pools[0], *heads)
    raise InputError("a teacher needs one SPPF, two layers before it that the head joins, and three outputs",
                     where=model.name, key="--teacher")  # fmt: skip


class FeatureTeacher:
    """The part of the ONNX file that ends at the features, at any input size."""

    def __init__(self, path: str | Path, threads: int):
        try:
            whole = onnx.load(str(path))
        except Exception as e:
            raise InputError(f"cannot read the teacher: {e}", where=str(path)) from e
        outputs = {o for n in whole.graph.node for o in n.output}
        missing = [n for n in TEACHER_FEATURES if n not in outputs]
        if missing:
            raise InputError(f"lacks the tensors {missing}", where=str(path))
        del whole
        with tempfile.TemporaryDirectory() as folder:
            cut = str(Path(folder) / "features.onnx")
            onnx.utils.extract_model(str(path), cut, ["images"], list(TEACHER_FEATURES), check_model=False)
            model = onnx.load(cut)
        shape = model.graph.input[0].type.tensor_type.shape
        for d, name in zip(shape.dim, ("batch", "3", "height", "width")):
            if name == "3":
                continue
            d.dim_param = name
        for out in model.graph.output:
            out.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, rgb: Tensor) -> list[Tensor]:
        """``rgb`` in 0..1, as the student gets it; the teacher wants BGR in 0..255."""
        bgr = np.ascontiguousarray((rgb.flip(1) * 255.0).contiguous().numpy())
        return [torch.from_numpy(f) for f in self.session.run(None, {"images": bgr})]


class Adapters(nn.Module):
    """1x1 convolutions from the student's widths to the teacher's; thrown away after training."""

    def __init__(self, student: list[int], teacher: list[int]):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(student[index], t, 1) for index, t in zip(PAIRS, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Mean squared error against features of zero mean and unit deviation in each channel."""
        total = student[0].new_zeros(())
        for conv, index, t in zip(self.convs, PAIRS, teacher):
            std, mean = torch.std_mean(t, dim=(0, 2, 3), keepdim=True)
            goal = ((t - mean) / (std + 1e-3)).clamp(-6, 6)
            if goal.shape[2:] != student[index].shape[2:]:
                # A student with coarser strides gets the teacher's features on its own grid.
                goal = nn.functional.adaptive_avg_pool2d(goal, (student[index].shape[2], student[index].shape[3]))
            total = total + (conv(student[index]) - goal).square().mean()
        return total / len(self.convs)
