"""Training state on disk, read without executing anything from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .model import Model

FORMAT = "ocelli-train-1"
_KEYS: dict[str, type] = {"model_yaml": str, "names": list, "weights": dict, "ema": dict, "progress": dict}


def save(path: Path, state: dict[str, Any]) -> None:
    """A reader never sees half a file."""
    part = path.with_suffix(".part")
    torch.save({"format": FORMAT, **state}, part)
    os.replace(part, path)


def read(path: Path) -> dict[str, Any]:
    where = str(path)
    if not path.is_file():
        raise InputError("no such checkpoint", where=where)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise InputError(f"not a readable checkpoint: {str(e).splitlines()[0]}", where=where) from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"must be {FORMAT}", where=where, key="format")
    for key, kind in _KEYS.items():
        if not isinstance(state.get(key), kind):
            raise InputError(f"missing or not a {kind.__name__}", where=where, key=key)
    return state


def fill(model: Model, weights: dict[str, Tensor], where: str, key: str) -> None:
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise InputError("missing", where=where, key=f"{key}.{name}")
        if tuple(weights[name].shape) != tuple(value.shape):
            raise InputError(
                f"has shape {list(weights[name].shape)}, the model needs {list(value.shape)}",
                where=where,
                key=f"{key}.{name}",
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise InputError("holds values that are not finite", where=where, key=f"{key}.{name}")
    extra = sorted(set(weights) - set(own))
    if extra:
        raise InputError("the model has no such tensor", where=where, key=f"{key}.{extra[0]}")
    model.load_state_dict(weights)


def load_model(path: Path) -> tuple[Model, list[str], dict[str, Any]]:
    """The averaged weights, ready to predict."""
    state = read(path)
    names = [str(n) for n in state["names"]]
    model = Model(state["model_yaml"], f"{path}: model_yaml", nc=len(names), drop_path=0.0)
    fill(model, state["ema"], str(path), "ema")
    return model.eval(), names, state
