#!/usr/bin/env python3
"""Writes clip.mp4: 75 frames of 640x360 at 25 per second, H.264. The golden pictures of the shipped model follow each other;
a red square of 48 pixels, which the marker model finds, moves over them: in frame n its corner is at (40 + 6n, 60 + 2n).

Needs `numpy`, `opencv-python-headless`, and GStreamer with x264 (gst-launch-1.0). Usage: make_clip.py clip.mp4
"""
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FRAMES, SIDE = 640, 360, 75, 48
golden = sorted((Path(__file__).resolve().parents[2] / "models/yolov5s-efficientnetv2/golden").glob("*.jpg"))
pictures = []
for path in golden:
    picture = cv2.resize(cv2.imread(str(path)), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    # Nothing but the square is saturated red, so that the answer is known.
    b, g, r = (picture[:, :, n].astype(np.int32) for n in range(3))
    picture[:, :, 2] = np.minimum(r, np.maximum(b, g) + 40).astype(np.uint8)
    pictures.append(picture)
out = subprocess.Popen(
    ["gst-launch-1.0", "-q", "fdsrc", "!", "rawvideoparse", f"width={WIDTH}", f"height={HEIGHT}", "format=bgr",
     "framerate=25/1", "!", "videoconvert", "!", "video/x-raw,format=I420", "!", "x264enc", "bitrate=600", "key-int-max=25",
     "speed-preset=slow", "threads=1", "!", "h264parse", "!", "mp4mux", "!", "filesink", f"location={sys.argv[1]}"],
    stdin=subprocess.PIPE,
)  # fmt: skip
for n in range(FRAMES):
    frame = pictures[n * len(pictures) // FRAMES].copy()
    x, y = 40 + 6 * n, 60 + 2 * n
    frame[y : y + SIDE, x : x + SIDE] = (0, 0, 255)
    out.stdin.write(frame.tobytes())
out.stdin.close()
sys.exit(out.wait())
