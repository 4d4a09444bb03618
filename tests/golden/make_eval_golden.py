#!/usr/bin/env python3
"""Writes eval.json: random ground truth and detections, and their average precision as pycocotools computes it.

Needs the packages `pycocotools` and `numpy`. Usage: make_eval_golden.py eval.json
"""
import contextlib
import io
import json
import random
import sys

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def case(name, seed, images, categories, truths, extra, crowds=0.0, scores=20, grid=0.5, empty=(), unfound=()):
    """`scores`: how many different scores there are (few: many ties). `grid`: boxes lie on multiples of it, so that some
    overlaps are exactly on a threshold. `empty`: categories without ground truth. `unfound`: without detections."""
    rng = random.Random(seed)
    snap = lambda v: round(v / grid) * grid
    ids = [rng.randrange(1, 900) * 7 + n for n in range(images)]
    cats = [3 * n + 2 for n in range(categories)]
    truth = {"images": [{"id": i, "width": 200, "height": 160, "file_name": f"{i}.jpg"} for i in ids], "annotations": [],
             "categories": [{"id": c, "name": f"class {c}"} for c in cats]}
    found = []

    def box():
        w, h = snap(rng.uniform(4, 60)) + grid, snap(rng.uniform(4, 60)) + grid
        return [snap(rng.uniform(0, 190 - w)), snap(rng.uniform(0, 150 - h)), w, h]

    def detect(i, c, b):
        if c not in unfound:
            found.append({"image_id": i, "category_id": c, "bbox": b, "score": rng.randrange(1, scores + 1) / (scores + 1)})

    for i in ids:
        for _ in range(rng.randrange(truths + 1)):
            c = rng.choice([c for c in cats if c not in empty])
            b = box()
            crowd = rng.random() < crowds
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": i, "category_id": c, "bbox": b,
                                         "area": b[2] * b[3], "iscrowd": int(crowd)})
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3]) + 2 * crowd):
                moved = [snap(v + rng.choice([0, 0, 1, rng.gauss(0, 3)])) for v in b]
                detect(i, c if rng.random() < 0.9 else rng.choice(cats), moved[:2] + [max(v, grid) for v in moved[2:]])
        for _ in range(rng.randrange(extra + 1)):
            detect(i, rng.choice(cats), box())
    return {"name": name, "truth": truth, "found": found, **expected(truth, found, cats)}


def expected(truth, found, cats):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth))
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(json.loads(json.dumps(found))), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    # precision: IoU, recall, category, area, detections per image
    precision = run.eval["precision"][:, :, :, 0, 2]
    by_category = {}
    for k, c in enumerate(cats):
        p = precision[:, :, k]
        by_category[c] = None if (p < 0).all() else [float(p[0].mean()), float(p.mean())]
    return {"map50": float(run.stats[1]), "map50_95": float(run.stats[0]), "by_category": by_category}


cases = [
    case("plain", 1, 12, 3, 6, 3),
    case("ties: three scores only", 2, 12, 3, 6, 4, scores=3),
    case("crowds", 3, 12, 2, 7, 3, crowds=0.3),
    case("crowds and ties", 4, 10, 2, 7, 3, crowds=0.4, scores=4),
    case("a class without ground truth, one without detections", 5, 8, 4, 6, 4, empty=(5,), unfound=(8,)),
    case("coarse boxes, overlaps on thresholds", 6, 15, 2, 8, 2, grid=5.0, scores=6),
    case("one class, more than 100 detections in an image", 7, 2, 1, 20, 140, scores=50),
    case("only crowds in most images", 8, 6, 1, 3, 2, crowds=0.8),
]
with open(sys.argv[1], "w", encoding="utf-8") as out:
    json.dump(cases, out, separators=(",", ":"))
    out.write("\n")
