"""Several models on the same data, budget and schedule, as one table."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


from . import checkpoint
from .data import Batches, Sample, load_config, load_split, read_image, to_input
from .errors import InputError
from .eval import evaluate, onnx_predictor
from .export import export, export_model
from .model import Model
from .train import Options, train

# The models take turns after so many iterations, so that a busy hour of the machine meets all of them alike.
TURN = 20
ORT_ROUNDS, TRACT_ROUNDS, TRACT_PICTURES = 40, 5, 16


@dataclass(frozen=True)
class Settings:
    data: Path
    data_root: Path | None
    side: int
    iterations: int
    measure: str
    teacher: Path | None
    threads: int
    lr: float
    seed: int


@dataclass(frozen=True)
class _Entry:
    name: str
    path: Path
    folder: Path
    model: Model

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


def compare(paths: list[Path], settings: Settings, out: Path, ocelli: Path | None, resume: bool) -> str:
    """Writes ``out``/compare.json and gives the table as Markdown."""
    config = load_config(settings.data, settings.data_root)
    root, split = _measured(settings)
    samples = load_split(root, split, len(config.names))
    entries = _entries(paths, settings, out, len(config.names))
    if ocelli is not None:
        _try_runtime(ocelli, entries, config.names, settings.side, samples[0])

    pending = [e for e in entries if not _finished(e, settings)]
    for e in pending:
        _prepare(e, settings, resume)
    for goal in range(TURN, settings.iterations + TURN, TURN):
        for e in pending:
            if _iteration(e) < min(goal, settings.iterations):
                _train(e, settings, min(goal, settings.iterations))
    for e in pending:
        _measure(e, settings, root, split, config.names)

    rows = {e.name: json.loads(e.result.read_text(encoding="utf-8"))["result"] for e in entries}
    if len({r["batches"] for r in rows.values()}) != 1:
        raise InputError("the models did not see the same batches: were images changed meanwhile?", where=str(out))
    for name, ms in _time_ort(entries, samples[0]).items():
        rows[name]["ort_cpu_ms"] = ms
    tract = _time_tract(ocelli, entries, samples) if ocelli is not None else {}
    for name in rows:
        rows[name]["tract_cpu_ms"] = tract.get(name)
    whole = {"settings": _shared(settings), "images": len(samples), "models": rows}
    (out / "compare.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return table(rows, settings.side, settings.measure)


def table(rows: dict[str, dict[str, Any]], side: int, measure: str) -> str:
    def ms(key: str) -> list[str]:
        return ["not measured" if r[key] is None else f"{r[key]:.1f}" for r in rows.values()]

    every = list(rows.values())
    lines = [
        ("", list(rows)),
        ("parameters", [f"{r['parameters']:,}".replace(",", " ") for r in every]),
        ("strides", [", ".join(str(s) for s in r["strides"]) for r in every]),
        ("GFLOPs at 640", [f"{r['gflops_640']:.2f}" for r in every]),
        (f"GFLOPs at {side}", [f"{r['gflops']:.2f}" for r in every]),
        ("iterations", [str(r["iterations"]) for r in every]),
        ("training, CPU s per 1000 images", [f"{r['cpu_s_per_1000_images']:.1f}" for r in every]),
        ("training, CPU s per epoch", [f"{r['cpu_s_per_epoch']:.1f}" for r in every]),
        (f"mAP50, {measure}", [f"{r['map50']:.4f}" for r in every]),
        (f"mAP50-95, {measure}", [f"{r['map50_95']:.4f}" for r in every]),
        (f"ONNX Runtime at {side}, CPU ms per picture", ms("ort_cpu_ms")),
        (f"tract at {side}, CPU ms per picture", ms("tract_cpu_ms")),
    ]
    text = [f"| {head} | " + " | ".join(cells) + " |" for head, cells in lines]
    text.insert(1, "|---" * (len(rows) + 1) + "|")
    return "\n".join(text)


def _measured(settings: Settings) -> tuple[Path, str]:
    folder, _, split = settings.measure.rpartition(":")
    if not folder or not split:
        raise InputError(f"{settings.measure!r} is not FOLDER:SPLIT", key="--measure")
    base = settings.data_root if settings.data_root is not None else settings.data.parent
    return base / folder, split


def _entries(paths: list[Path], settings: Settings, out: Path, nc: int) -> list[_Entry]:
    """All models are built before the first is trained: a fault is told now, not after hours."""
    entries: list[_Entry] = []
    for path in paths:
        model = Model.load(path, nc=nc)
        step = max(model.strides)
        if settings.side < step or settings.side % step:
            raise InputError(f"{settings.side} is no multiple of {path}'s stride {step}", key="--img")
        if any(e.name == path.stem for e in entries):
            raise InputError(f"two files are called {path.stem}", key="--models")
        entries.append(_Entry(path.stem, path, out / path.stem, model))
    return entries


def _shared(settings: Settings) -> dict[str, Any]:
    return {
        "data_sha256": _sha256(settings.data),
        "img": settings.side,
        "iterations": settings.iterations,
        "measure": settings.measure,
        "teacher_sha256": None if settings.teacher is None else _sha256(settings.teacher),
        "threads": settings.threads,
        "lr": settings.lr,
        "seed": settings.seed,
    }


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise InputError(f"cannot read the file: {e.strerror}", where=str(path)) from e


def _settings_of(entry: _Entry, settings: Settings) -> dict[str, Any]:
    return {"model_sha256": hashlib.sha256(entry.model.text.encode()).hexdigest(), **_shared(settings)}


def _same(path: Path, entry: _Entry, settings: Settings) -> None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError("cannot be read; remove its folder to train this model anew", where=str(path)) from e
    for key, value in _settings_of(entry, settings).items():
        if stored.get(key) != value:
            raise InputError(f"was {stored.get(key)}, is now {value}; choose another --out", where=str(path), key=key)


def _finished(entry: _Entry, settings: Settings) -> bool:
    if not entry.result.is_file():
        return False
    _same(entry.result, entry, settings)
    print(f"{entry.name}: already trained and measured", flush=True)
    return True


def _prepare(entry: _Entry, settings: Settings, resume: bool) -> None:
    stamp = entry.folder / "settings.json"
    if entry.last.is_file():
        if not resume:
            raise InputError("is from an unfinished comparison; give --resume or another --out", where=str(entry.last))
        _same(stamp, entry, settings)
        return
    entry.folder.mkdir(parents=True, exist_ok=True)
    # Lines of a run that ended before its first checkpoint.
    (entry.folder / "log.jsonl").unlink(missing_ok=True)
    stamp.write_text(json.dumps({"settings": _settings_of(entry, settings)}, indent=1) + "\n", encoding="utf-8")


def _iteration(entry: _Entry) -> int:
    return int(checkpoint.read(entry.last)["progress"]["iteration"]) if entry.last.is_file() else 0


def _train(entry: _Entry, settings: Settings, goal: int) -> None:
    print(f"{entry.name}: to iteration {goal} of {settings.iterations}", flush=True)
    train(
        Options(
            model=entry.path,
            data=settings.data,
            data_root=settings.data_root,
            out=entry.folder,
            sizes=[(0.0, settings.side)],
            epochs=None,
            iterations=settings.iterations,
            pause_at=goal,
            deadline=None,
            lr=settings.lr,
            weight_decay=0.02,
            warmup=min(100, max(settings.iterations // 4, 1)),
            ema=0.998,
            drop_path=None,
            mosaic_until=0.75,
            teacher=settings.teacher,
            teacher_weight=0.3,
            teacher_until=0.7,
            threads=settings.threads,
            device="cpu",
            amp="off",
            save_every=TURN,
            eval_every=0,
            seed=settings.seed,
            resume=entry.last.is_file(),
            init=None,
        )
    )
    reached = _iteration(entry)
    if reached < goal:
        raise InputError(f"stopped at iteration {reached}; go on with --resume", where=str(entry.last))


def _measure(entry: _Entry, settings: Settings, root: Path, split: str, names: list[str]) -> None:
    state = checkpoint.read(entry.last)
    iterations, cpu = int(state["progress"]["iteration"]), float(state["progress"]["cpu"])
    batches = Batches(load_config(settings.data, settings.data_root), settings.seed)
    seconds = cpu / iterations
    print("\n".join(export(entry.last, entry.onnx, settings.side, 17, False, False, "f32", None)), flush=True)
    found = evaluate(onnx_predictor(entry.onnx, None, settings.threads), root, split, names)
    result = {
        "parameters": entry.model.parameter_count(),
        "strides": entry.model.strides,
        "gflops_640": entry.model.gflops(640),
        "gflops": entry.model.gflops(settings.side),
        "iterations": iterations,
        "images_per_iteration": batches.size,
        # What was drawn last tells whether all that came before was equal too.
        "batches": hashlib.sha256(repr(state["drawn"]["batches"]).encode()).hexdigest(),
        "cpu_s": cpu,
        "cpu_s_per_1000_images": 1000 * seconds / batches.size,
        "cpu_s_per_epoch": seconds * len(batches),
        "map50": found.map50,
        "map50_95": found.map,
        "classes": {k: {"ap50": v[0], "ap50_95": v[1], "boxes": v[2]} for k, v in found.by_class.items()},
    }
    part = entry.result.with_suffix(".part")
    part.write_text(
        json.dumps({"settings": _settings_of(entry, settings), "result": result}, indent=1) + "\n", encoding="utf-8"
    )
    os.replace(part, entry.result)


def _time_ort(entries: list[_Entry], sample: Sample) -> dict[str, float]:
    """Median CPU time of the bare session. One thread, and the models in turn."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    sessions = {}
    for e in entries:
        if not e.onnx.is_file():
            raise InputError("is gone; remove its folder to train this model anew", where=str(e.onnx))
        sessions[e.name] = ort.InferenceSession(str(e.onnx), options, providers=["CPUExecutionProvider"])
    side = next(iter(sessions.values())).get_inputs()[0].shape[2]
    x = to_input(read_image(sample.image), side, side)[0][None]
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(ORT_ROUNDS + 1):
        for name, session in sessions.items():
            clock = time.process_time()
            session.run(None, {"images": x})
            if turn:  # The first run allocates.
                spent[name].append(1000 * (time.process_time() - clock))
    return {name: statistics.median(ms) for name, ms in spent.items()}


def _try_runtime(ocelli: Path, entries: list[_Entry], names: list[str], side: int, sample: Sample) -> None:
    """The untrained models through the binary, so that it is not found wanting after the training."""
    with tempfile.TemporaryDirectory() as folder:
        for e in entries:
            path = Path(folder) / f"{e.name}.onnx"
            export_model(e.model.eval(), names, path, side, 17, False, False, "f32", None)
            _detect(ocelli, path, sample.image)


def _detect(ocelli: Path, model: Path, pictures: Path) -> float:
    """CPU seconds of the whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(ocelli), "detect", str(pictures), "--model", str(model), "--backend", "tract", "--json", "-"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise InputError(f"cannot be run: {e}", where=str(ocelli), key="--ocelli") from e
    if run.returncode != 0 or '"backend":"tract"' not in run.stdout:
        lines = run.stderr.strip().splitlines() or [f"ended with {run.returncode}"]
        raise InputError(f"fails on {model.name}: {lines[-1]}", where=str(ocelli), key="--ocelli")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _time_tract(ocelli: Path, entries: list[_Entry], samples: list[Sample]) -> dict[str, float]:
    """CPU time that each further picture costs: loading the model is the same in a short and in a long run."""
    spent: dict[str, list[float]] = {e.name: [] for e in entries}
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for place, count in ((few, 1), (many, 1 + TRACT_PICTURES)):
            place.mkdir()
            for i in range(count):
                source = samples[i % len(samples)].image.resolve()
                (place / f"{i:03d}{source.suffix.lower()}").symlink_to(source)
        for _ in range(TRACT_ROUNDS):
            for e in entries:
                short, long = _detect(ocelli, e.onnx, few), _detect(ocelli, e.onnx, many)
                spent[e.name].append(1000 * (long - short) / TRACT_PICTURES)
    return {name: statistics.median(ms) for name, ms in spent.items()}
