"""The training loop. Its schedule follows either iterations or the wall clock."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from .data import Batches, load_config
from .distill import Adapters, FeatureTeacher, student_layers
from .errors import InputError
from .loss import Weights, detection_loss
from .model import Model


@dataclass(frozen=True)
class Options:
    model: Path
    data: Path
    data_root: Path | None
    out: Path
    sizes: list[tuple[float, int]]
    epochs: int | None
    deadline: float | None
    lr: float
    weight_decay: float
    warmup: int
    ema: float
    drop_path: float | None
    mosaic_until: float
    teacher: Path | None
    teacher_weight: float
    teacher_until: float
    threads: int
    device: str
    amp: str
    save_every: int
    eval_every: int
    seed: int
    resume: bool
    init: Path | None
    iterations: int | None = None
    # Stores the state and ends here; the schedule still aims at the end of the training.
    pause_at: int | None = field(default=None, compare=False)


def parse_sizes(text: str) -> list[tuple[float, int]]:
    """``416`` or ``0:160,0.3:224,0.85:416``: from which part of the training on which side."""
    sizes = []
    for part in text.split(","):
        start, _, side = part.rpartition(":")
        try:
            sizes.append((float(start or 0), int(side)))
        except ValueError as e:
            raise InputError(f"{part!r} is neither SIDE nor START:SIDE", key="--img") from e
        if sizes[-1][1] < 32 or sizes[-1][1] % 32:
            raise InputError(f"{side} is no multiple of 32", key="--img")
    sizes.sort()
    if sizes[0][0] > 0:
        raise InputError("the first size must start at 0", key="--img")
    return sizes


class _Average:
    """Moves the averaged weights towards the trained ones after every step."""

    def __init__(self, ema: Model, model: Model):
        own = model.state_dict()
        pairs = [(v, own[k]) for k, v in ema.state_dict().items() if v.dtype.is_floating_point]
        self.ema = [e for e, _ in pairs]
        self.own = [o for _, o in pairs]

    def step(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.own, 1 - decay)


def _optimizer(parts: list[nn.Module], options: Options) -> torch.optim.AdamW:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for part in parts:
        for p in part.parameters():
            (decayed if p.ndim > 1 else plain).append(p)
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=True)


def _side(sizes: list[tuple[float, int]], progress: float) -> int:
    return [side for start, side in sizes if start <= progress][-1]


def train(options: Options) -> Path:
    """Gives the path of the last checkpoint."""
    torch.set_num_threads(options.threads)
    # Second moments of dead channels become denormal and slow every step down.
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    config = load_config(options.data, options.data_root)
    options.out.mkdir(parents=True, exist_ok=True)
    last = options.out / "last.pt"
    model = Model.load(options.model, nc=len(config.names), drop_path=options.drop_path)
    batches = Batches(config, options.seed)
    device = torch.device(options.device)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = copy.deepcopy(model).eval()

    teacher = adapters = None
    layers: tuple[int, ...] = ()
    if options.teacher is not None:
        teacher = FeatureTeacher(options.teacher, options.threads)
        layers = student_layers(model)
        blank = torch.zeros(1, 3, 64, 64)
        with torch.no_grad():
            was = model.training
            _, seen = model.eval().features(blank.to(device), layers)
            model.train(was)
        adapters = Adapters([seen[i].shape[1] for i in layers], [f.shape[1] for f in teacher(blank)]).to(device)
    optimizer = _optimizer([model] + ([adapters] if adapters is not None else []), options)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")  # type: ignore[attr-defined]

    if options.init is not None and not options.resume:
        first = checkpoint.read(options.init)
        for part in (model, ema):
            checkpoint.fill(part, first["weights"], str(options.init), "weights")
    iteration, begun, deadline, cpu = 0, time.time(), options.deadline, 0.0
    if options.resume:
        state = checkpoint.read(last)
        checkpoint.fill(model, state["weights"], str(last), "weights")
        checkpoint.fill(ema, state["ema"], str(last), "ema")
        try:
            optimizer.load_state_dict(state["optimizer"])
            if adapters is not None and state.get("adapters") is not None:
                adapters.load_state_dict(state["adapters"])
            iteration, begun = int(state["progress"]["iteration"]), float(state["progress"]["begun"])
            cpu = float(state["progress"].get("cpu", 0.0))
            drawn = state.get("drawn")
            if drawn is None:
                batches = Batches(config, options.seed + iteration)
            else:
                batches.restore(drawn["batches"])
                torch.set_rng_state(drawn["torch"])
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise InputError(f"does not fit these options: {e}", where=str(last), key="optimizer") from e
        print(f"resumed at iteration {iteration}", flush=True)
    total = options.iterations or (options.epochs or 0) * len(batches)
    pause_at = total if options.pause_at is None else options.pause_at
    average = _Average(ema, model)
    weights = Weights(classes=0.4 * len(config.names) / 80 + 0.02)
    model.train()

    def progress() -> float:
        if deadline is not None:
            return min((time.time() - begun) / max(deadline - begun, 1.0), 1.0)
        return min(iteration / max(total, 1), 1.0)

    def store() -> None:
        checkpoint.save(
            last,
            {
                "model_yaml": model.text,
                "names": config.names,
                "weights": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "adapters": None if adapters is None else adapters.state_dict(),
                "progress": {"iteration": iteration, "begun": begun, "fraction": progress(), "cpu": cpu},
                # Resumed, the training sees the very batches that it would have seen.
                "drawn": {"batches": batches.state(), "torch": torch.get_rng_state()},
            },
        )

    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    before = signal.signal(signal.SIGTERM, stop)
    journal = (options.out / "log.jsonl").open("a", encoding="utf-8")
    mean: dict[str, float] = {}
    stamp = time.time()
    while (p := progress()) < 1.0 and not stopped and (deadline is not None or iteration < pause_at):
        clock = time.process_time()
        side = _side(options.sizes, p)
        rate = options.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * p)))
        rate *= min(1.0, (iteration + 1) / options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        calm = p >= options.mosaic_until
        images, targets = batches.next(side, mosaic=not calm, calm=calm)
        lessons: list[Tensor] = []
        share = 0.0
        if teacher is not None and p < options.teacher_until:
            lessons = [f.to(device) for f in teacher(images)]
            share = options.teacher_weight * (1 - p / options.teacher_until)
        images = images.to(device, memory_format=torch.channels_last)
        targets = targets.to(device)
        amp: Any = contextlib.nullcontext()
        if options.amp != "off":
            amp = torch.autocast(device.type, torch.bfloat16 if options.amp == "bf16" else torch.float16)
        with amp:
            raw, seen = model.features(images, layers if lessons else ())
        loss, parts = detection_loss([r.float() for r in raw], targets, model.detect, weights)
        if lessons and adapters is not None:
            lesson = adapters([seen[i].float() for i in layers], lessons)
            parts["feat"] = float(lesson.detach())
            loss = loss + share * lesson
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss became {float(loss)} at iteration {iteration}; lower --lr", key="loss")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        iteration += 1
        average.step(options.ema * (1 - math.exp(-iteration / 300)))
        cpu += time.process_time() - clock
        for key, value in parts.items():
            mean[key] = value if key not in mean else 0.95 * mean[key] + 0.05 * value
        if iteration % 20 == 0:
            now = time.time()
            row: dict[str, Any] = {"iteration": iteration, "progress": round(p, 4), "side": side, "lr": rate}
            row.update({k: round(v, 5) for k, v in mean.items()})
            row["s_per_it"] = round((now - stamp) / 20, 3)
            stamp = now
            journal.write(json.dumps(row) + "\n")
            journal.flush()
            _progress(row, p)
        if iteration % options.save_every == 0:
            store()
        if options.eval_every and iteration % (options.eval_every * len(batches)) == 0 and config.validate is not None:
            from .eval import evaluate, torch_predictor

            result = evaluate(torch_predictor(ema, _side(options.sizes, 1.0)), *config.validate, config.names)
            print(f"epoch {iteration // len(batches)}: mAP50 {result.map50:.4f} mAP50-95 {result.map:.4f}", flush=True)
            journal.write(json.dumps({"iteration": iteration, "map50": result.map50, "map": result.map}) + "\n")
    store()
    journal.close()
    signal.signal(signal.SIGTERM, before)
    _plot(options.out)
    return last


def _progress(row: dict[str, Any], p: float) -> None:
    bar = "#" * round(20 * p)
    parts = " ".join(f"{k} {row[k]:.4f}" for k in ("box", "obj", "cls", "feat") if k in row)
    line = f"[{bar:<20}] {p:6.1%} it {row['iteration']} {row['side']}px {parts} lr {row['lr']:.1e} {row['s_per_it']:.2f} s/it"
    end = "\r" if sys.stdout.isatty() else "\n"
    print(line, end=end, flush=True)


def _plot(out: Path) -> None:
    """Losses over the iterations, and mAP where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(t) for t in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(9, 5))
    for key in ("box", "obj", "cls"):
        points = np.array([(r["iteration"], r[key]) for r in rows if key in r])
        if len(points):
            axes.plot(points[:, 0], points[:, 1], label=key)
    points = np.array([(r["iteration"], r["map50"]) for r in rows if "map50" in r])
    if len(points):
        other = axes.twinx()
        other.plot(points[:, 0], points[:, 1], "k--", label="mAP50")
        other.set_ylabel("mAP50")
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    if axes.get_legend_handles_labels()[0]:  # Less than 20 iterations draw nothing.
        axes.legend()
    figure.tight_layout()
    figure.savefig(out / "loss.png", dpi=110)
    plt.close(figure)
