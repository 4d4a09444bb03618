"""Command line: summary, train, label, eval, export, pack, compare."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from .errors import InputError


MODELS = "models/yolov5s.yaml,models/yolov5s_EfficientNetv2.yaml,models/yolov5s_efficientnetv2_corrected.yaml"


def _summary(a: argparse.Namespace) -> None:
    from .model import Model

    print(Model.load(a.model, nc=a.nc).summary())


def _deadline(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        clock = datetime.strptime(text, "%H:%M")
    except ValueError as e:
        raise InputError(f"{text!r} is no HH:MM", key="--until") from e
    now = datetime.now(timezone.utc)
    end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return (end if end > now else end + timedelta(days=1)).timestamp()


def _train(a: argparse.Namespace) -> None:
    from .train import Options, parse_sizes, train

    if [a.epochs, a.iterations, a.until].count(None) != 2:
        raise InputError("give either --epochs, --iterations or --until", key="--epochs")
    options = Options(
        model=a.model,
        data=a.data,
        data_root=a.data_root,
        out=a.out,
        sizes=parse_sizes(a.img),
        epochs=a.epochs,
        deadline=_deadline(a.until),
        lr=a.lr,
        weight_decay=a.weight_decay,
        warmup=a.warmup,
        ema=a.ema,
        drop_path=a.drop_path,
        mosaic_until=a.mosaic_until,
        teacher=a.teacher,
        teacher_weight=a.teacher_weight,
        teacher_until=a.teacher_until,
        threads=a.threads,
        device=a.device,
        amp=a.amp,
        save_every=a.save_every,
        eval_every=a.eval_every,
        seed=a.seed,
        resume=a.resume,
        init=a.init,
        iterations=a.iterations,
    )
    print(f"wrote {train(options)}")


def _label(a: argparse.Namespace) -> None:
    from .labels import Part, YoloxTeacher, label_clip

    if not 0 <= a.start < a.end <= 1:
        raise InputError("needs 0 <= start < end <= 1", key="--start")
    teacher = YoloxTeacher(a.teacher, a.threads)
    part = Part(a.start, a.end, a.every)
    count, boxes = label_clip(a.clip, teacher, a.out, a.split, part, a.conf, a.iou, a.tile or None)
    print(f"{count} frames, {boxes} boxes in {a.out}")


def _eval(a: argparse.Namespace) -> None:
    from .eval import evaluate, onnx_predictor, plot_curves, torch_predictor

    started = time.monotonic()
    if a.weights.suffix == ".onnx":
        names = a.names.split(",")
        predict = onnx_predictor(a.weights, a.img, a.threads)
    else:
        import torch

        from .checkpoint import load_model

        torch.set_num_threads(a.threads or 2)
        model, names, _ = load_model(a.weights)
        predict = torch_predictor(model, a.img or 416)
    result = evaluate(predict, a.data, a.split, names, a.only.split(",") if a.only else None)
    print(result.table())
    print(f"{result.images} images, {time.monotonic() - started:.1f} s")
    if a.plot is not None:
        plot_curves(result, a.plot)
    if a.json is not None:
        values = {"map50": result.map50, "map50_95": result.map, "images": result.images}
        classes = {k: {"ap50": v[0], "ap50_95": v[1], "boxes": v[2]} for k, v in result.by_class.items()}
        a.json.write_text(json.dumps({**values, "classes": classes}, indent=1) + "\n", encoding="utf-8")


def _export(a: argparse.Namespace) -> None:
    from .export import export

    if a.int8 is None:
        lines = export(a.weights, a.out, a.img, a.opset, a.dynamic, a.half, a.input, a.check)
        print("\n".join(lines))
        return
    if a.dynamic or a.half or a.input != "f32":
        raise InputError("goes with a static fp32 export only", key="--int8")
    from .checkpoint import load_model
    from .eval import evaluate, onnx_predictor
    from .int8 import quantise

    whole = a.out.with_suffix(".fp32.onnx")
    lines = export(a.weights, whole, a.img, a.opset, False, False, "f32", a.check)
    print("\n".join(lines + quantise(whole, a.out, a.int8, a.count)))
    if a.data is not None:
        names = load_model(a.weights)[1]
        for label, path in (("fp32", whole), ("int8", a.out)):
            result = evaluate(onnx_predictor(path, None), a.data, a.split, names)
            print(f"{label}: mAP50 {result.map50:.4f}, mAP50-95 {result.map:.4f} on {result.images} images")


def _pack(a: argparse.Namespace) -> None:
    from .pack import Measure, pack

    measures = [Measure.parse(m) for m in a.measure]
    print("\n".join(pack(a.weights, a.out, a.img, a.opset, a.license, a.source, measures)))


def _compare(a: argparse.Namespace) -> None:
    # Read once, when torch is loaded: threads that spin while they wait would count as CPU time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from .compare import Settings, compare

    models = [Path(m) for m in a.models.split(",")]
    settings = Settings(a.data, a.data_root, a.img, a.iterations, a.measure, a.teacher, a.threads, a.lr, a.seed)
    print(compare(models, settings, a.out, a.ocelli, a.resume))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


# argparse names the type in its message.
_count.__name__ = "whole number above 0"


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="ocelli_train", description="Define, train, measure and export detectors.")
    verbs = top.add_subparsers(dest="verb", required=True)

    p = verbs.add_parser("summary", help="print the layers of a model file")
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--nc", type=int, help="number of classes instead of the file's")
    p.set_defaults(run=_summary)

    p = verbs.add_parser("train", help="train a model")
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--data", type=Path, required=True, help="data file with names and sources")
    p.add_argument("--data-root", type=Path, help="folder of the sources; default: beside the data file")
    p.add_argument("--out", type=Path, default=Path("runs/train"))
    p.add_argument("--img", default="416", help="side, or progressive resizing as 0:160,0.3:224,0.85:416")
    p.add_argument("--epochs", type=_count)
    p.add_argument("--iterations", type=_count)
    p.add_argument("--until", help="end at this UTC time, HH:MM; the schedule follows the clock")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--weight-decay", type=float, default=0.02)
    p.add_argument("--warmup", type=int, default=100, help="iterations")
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--drop-path", type=float, help="instead of the model file's")
    p.add_argument("--mosaic-until", type=float, default=0.75, help="part of the training with mosaics")
    p.add_argument("--teacher", type=Path, help="YOLOX ONNX file whose features are regressed")
    p.add_argument("--teacher-weight", type=float, default=0.3)
    p.add_argument("--teacher-until", type=float, default=0.7, help="part of the training with the teacher")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu")
    p.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    p.add_argument("--save-every", type=int, default=200, help="iterations")
    p.add_argument("--eval-every", type=int, default=1, help="epochs; 0: never")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    p.add_argument("--init", type=Path, help="checkpoint whose weights a new schedule starts from")
    p.set_defaults(run=_train)

    p = verbs.add_parser("label", help="label the frames of a clip by a teacher")
    p.add_argument("--clip", type=Path, required=True)
    p.add_argument("--teacher", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--split", default="train")
    p.add_argument("--start", type=float, default=0.0, help="part of the clip")
    p.add_argument("--end", type=float, default=1.0)
    p.add_argument("--every", type=int, default=5)
    p.add_argument("--conf", type=float, default=0.4)
    p.add_argument("--iou", type=float, default=0.5)
    p.add_argument("--tile", type=int, default=416, help="side of overlapping crops; 0: whole frames only")
    p.add_argument("--threads", type=int, default=2)
    p.set_defaults(run=_label)

    p = verbs.add_parser("eval", help="COCO-style average precision")
    p.add_argument("--weights", type=Path, required=True, help="checkpoint or .onnx")
    p.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/")
    p.add_argument("--split", default="test")
    p.add_argument("--img", type=int)
    p.add_argument("--names", default="bus,car,motorbike,person,truck", help="classes of an .onnx file")
    p.add_argument("--only", help="these classes only")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--json", type=Path)
    p.add_argument("--plot", type=Path, help="precision over recall as PNG")
    p.set_defaults(run=_eval)

    p = verbs.add_parser("export", help="write ONNX")
    p.add_argument("--weights", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--img", type=int, default=416)
    p.add_argument("--opset", type=int, choices=(12, 17), default=17)
    p.add_argument("--dynamic", action="store_true", help="batch, height and width free")
    p.add_argument("--half", action="store_true", help="fp16, input and output too")
    p.add_argument("--input", choices=("f32", "u8"), default="f32", help="u8: 0..255, the division is in the graph")
    p.add_argument("--check", type=Path, help="image for the comparison with PyTorch; default: noise")
    p.add_argument("--int8", type=Path, metavar="DIR", help="quantise, calibrated with images of this folder")
    p.add_argument("--count", type=int, default=100, help="images to calibrate with")
    p.add_argument("--data", type=Path, help="with --int8: measure before and after on this folder")
    p.add_argument("--split", default="valid")
    p.set_defaults(run=_export)

    p = verbs.add_parser("pack", help="write a model folder: model.onnx and model.yaml")
    p.add_argument("--weights", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder; its name becomes the model's")
    p.add_argument("--img", type=int, default=416)
    p.add_argument("--opset", type=int, choices=(12, 17), default=17)
    p.add_argument("--license", required=True, help="SPDX expression of the weights' licence")
    p.add_argument("--source", required=True, help="one line: how the weights were made")
    p.add_argument("--measure", action="append", default=[], metavar="KEY=DIR:SPLIT[:CLASS]")
    p.set_defaults(run=_pack)

    p = verbs.add_parser("compare", help="train several models on equal data and budget, and tabulate them")
    p.add_argument("--models", default=MODELS, metavar="FILE,FILE,...")
    p.add_argument("--data", type=Path, required=True, help="data file with names and sources")
    p.add_argument("--data-root", type=Path, help="folder of the sources; default: beside the data file")
    p.add_argument("--out", type=Path, default=Path("runs/compare"))
    p.add_argument("--img", type=int, default=192, help="side for training, measuring and timing")
    p.add_argument("--iterations", type=_count, default=400, help="of each model")
    p.add_argument("--measure", default="highway:test", metavar="FOLDER:SPLIT", help="within the data root")
    p.add_argument("--teacher", type=Path, help="YOLOX ONNX file whose features all models regress")
    p.add_argument("--ocelli", type=Path, help="the runtime's binary, to measure tract")
    p.add_argument("--threads", type=_count, default=2, help="for training and mAP; timing has one")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--resume", action="store_true", help="go on with what OUT holds")
    p.set_defaults(run=_compare)
    return top


def main() -> int:
    a = _parser().parse_args()
    try:
        a.run(a)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
