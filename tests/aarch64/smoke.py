#!/usr/bin/env python3
"""The cross-built `ocelli` at work under emulation, held to what the same source does on this machine.

tests/aarch64/run.sh prepares everything and calls this. The detector is tests/data/marker.onnx, which finds a red square, and
once the shipped model: emulation is about two hundred times slower than an Arm, so times mean nothing here.
"""
import glob
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request
import zlib

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EMULATE = os.path.join(REPO, "tests", "aarch64", "emulate.sh")
NATIVE = os.environ["OCELLI_NATIVE"]
ARM = os.environ["OCELLI_AARCH64"]
ORT_NATIVE = os.environ.get("ORT_NATIVE", "")
ORT_ARM = os.environ["ORT_AARCH64"]
MARKER = os.path.join(REPO, "tests", "data", "marker.onnx")
SHIPPED = os.path.join(REPO, "models", "yolov5s-efficientnetv2")
WIDTH, HEIGHT, SIDE, FPS = 320, 240, 48, 4
GROUND, RED, GREEN = (60, 60, 60), (255, 0, 0), (57, 211, 83)  # green is the colour of class 0
# Wide, because what it guards is that nothing hangs: emulation on a busy machine takes its time.
PATIENCE = 120


PREFIX = []  # before the emulator, see choose_emulation


def emulated(*arguments):
    return [*PREFIX, EMULATE, ARM, *arguments]


def run(command, timeout=PATIENCE, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=REPO, **more)


def write_png(path, left, top):
    """A grey picture with a red square."""
    rows = b""
    for y in range(HEIGHT):
        rows += b"\0"
        for x in range(WIDTH):
            inside = left <= x < left + SIDE and top <= y < top + SIDE
            rows += bytes(RED if inside else GROUND)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_clip(path, frames=240):
    """The square wanders slowly to the right. BT.601, limited range: red is 81, 90, 240."""
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420jpeg\n".encode())
        for n in range(frames):
            left, top = 20 + (2 * n) % 220, 100
            file.write(b"FRAME\n")
            for scale, ground, red in ((1, 60, 81), (2, 128, 90), (2, 128, 240)):
                plain = bytes([ground]) * (WIDTH // scale)
                row = bytearray(plain)
                row[left // scale : (left + SIDE) // scale] = bytes([red]) * (SIDE // scale)
                for y in range(HEIGHT // scale):
                    file.write(row if top <= y * scale < top + SIDE else plain)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(what, test, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = test()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {seconds} s")


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Child:
    """A process and the lines that it prints; it does not outlive the test."""

    def __init__(self, command, case, stream="stdout"):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, cwd=REPO, **pipes)
        self.lines = []
        case.addCleanup(self.end)
        self.reader = threading.Thread(target=self._read, args=(getattr(self.process, stream),), daemon=True)
        self.reader.start()

    def _read(self, stream):
        for line in stream:
            self.lines.append(line.rstrip("\n"))

    def find(self, *words):
        return next((line for line in list(self.lines) if all(word in line for word in words)), None)

    def wait_line(self, *words):
        try:
            return until(f"a line with {words}", lambda: self.find(*words))
        except AssertionError as error:
            tail = "\n".join(self.lines[-15:])
            raise AssertionError(f"{error}; exit code {self.process.poll()}, last lines:\n{tail}") from None

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="ocelli-aarch64.")
        self.addCleanup(shutil.rmtree, self.folder, True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def good(self, done):
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done.stdout

    def detect(self, command, picture, *options):
        """The one frame message that `detect` prints."""
        text = self.good(run([*command, "detect", picture, "--json", "-", *options], timeout=600))
        return json.loads(text.splitlines()[0])

    def same(self, left, right, least):
        """Objects of two messages are equal: boxes within 1e-3 of the picture's size, scores within their last digit."""
        a, b = left["objects"], right["objects"]
        self.assertGreaterEqual(len(a), least)
        self.assertEqual([o["label"] for o in a], [o["label"] for o in b])
        box = max(abs(x - y) for mine, other in zip(a, b) for x, y in zip(mine["box"], other["box"]))
        score = max(abs(mine["score"] - other["score"]) for mine, other in zip(a, b))
        self.assertLessEqual(box, 1e-3)
        self.assertLess(score, 1.5e-3)
        return f"{len(a)} objects, boxes at most {box:.1e} apart, scores {score:.1e}"

    def tell(self, text):
        print(f"    {text}", flush=True)


class Verbs(Base):
    def test_the_program_is_for_arm(self):
        with open(ARM, "rb") as file:
            self.assertEqual(struct.unpack("<H", file.read(20)[18:])[0], 183)

    def test_version(self):
        text = self.good(run(emulated("--version")))
        self.assertEqual(text, self.good(run([NATIVE, "--version"])))
        self.assertRegex(text, r"^ocelli \d+\.\d+\.\d+")

    def test_every_example_configuration_passes(self):
        files = sorted(glob.glob(os.path.join(REPO, "configs", "*.yaml")))
        self.assertGreaterEqual(len(files), 3)
        for file in files:
            self.assertIn("ok", self.good(run(emulated("config", "check", "-c", file))))
        self.tell(f"{len(files)} files")

    def test_a_wrong_configuration_is_refused(self):
        with open(self.path("bad.yaml"), "w", encoding="utf-8") as file:
            file.write("cameras:\n  gate: {url: 'rtsp://127.0.0.1/x', transprot: tcp}\n")
        done = run(emulated("config", "check", "-c", self.path("bad.yaml")))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("transport", done.stderr + done.stdout)


class Detect(Base):
    def setUp(self):
        super().setUp()
        self.picture = self.path("square.png")
        write_png(self.picture, 100, 60)

    def test_tract_finds_the_square_where_x86_finds_it(self):
        options = ("--model", MARKER, "--backend", "tract")
        here = self.detect([NATIVE], self.picture, *options)
        there = self.detect(emulated(), self.picture, *options)
        self.assertEqual(there["backend"], "tract")
        self.tell(self.same(there, here, 1))
        # Both could be wrong together.
        for got, want in zip(there["objects"][0]["box"], (100 / WIDTH, 60 / HEIGHT, 148 / WIDTH, 108 / HEIGHT)):
            self.assertAlmostEqual(got, want, delta=0.01)

    def test_onnx_runtime_finds_the_square_where_tract_and_x86_find_it(self):
        options = ("--model", MARKER, "--backend", "cpu", "--ort-library")
        there = self.detect(emulated(), self.picture, *options, ORT_ARM)
        self.assertEqual(there["backend"], "cpu")
        tract = self.detect([NATIVE], self.picture, "--model", MARKER, "--backend", "tract")
        self.tell(f"x86-64, tract: {self.same(there, tract, 1)}")
        if not ORT_NATIVE:
            self.skipTest("no ONNX Runtime for this machine, so only compared with tract")
        self.tell(f"x86-64, ONNX Runtime: {self.same(there, self.detect([NATIVE], self.picture, *options, ORT_NATIVE), 1)}")

    def test_a_truncated_onnx_runtime_is_refused_not_fatal(self):
        broken = self.path("libonnxruntime.so.1.24.4")
        with open(ORT_ARM, "rb") as whole, open(broken, "wb") as part:
            part.write(whole.read(1_000_000))
        done = run(emulated("detect", self.picture, "--model", MARKER, "--backend", "cpu", "--ort-library", broken, "--json", "-"))
        self.assertGreater(done.returncode, 0, "killed by a signal")
        self.assertIn(broken, done.stderr)

    def test_a_library_for_x86_is_named_as_such(self):
        if not ORT_NATIVE:
            self.skipTest("no ONNX Runtime for this machine")
        done = run(emulated("detect", self.picture, "--model", MARKER, "--backend", "cpu", "--ort-library", ORT_NATIVE, "--json", "-"))
        self.assertGreater(done.returncode, 0)
        self.assertRegex(done.stderr, "(?i)x86")

    def test_the_shipped_model_gives_the_same_boxes(self):
        picture = os.path.join(SHIPPED, "detected.jpg")
        for backend, more in (("tract", ()), ("cpu", ("--ort-library", ORT_ARM))):
            with self.subTest(backend=backend):
                here = self.detect([NATIVE], picture, "--model", SHIPPED, "--backend", "tract")
                there = self.detect(emulated(), picture, "--model", SHIPPED, "--backend", backend, *more)
                self.assertEqual(there["backend"], backend)
                self.tell(f"{backend}: {self.same(there, here, 3)}")


class Service(Base):
    """A camera of this machine, the emulated service, a broker and a viewer of this machine."""

    def start(self):
        clip = self.path("clip.y4m")
        write_clip(clip)
        self.mqtt_port, self.rtsp_port, self.http_port = free_port(), free_port(), free_port()
        with open(self.path("mosquitto.conf"), "w", encoding="utf-8") as file:
            file.write(f"listener {self.mqtt_port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        broker = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        Child([broker, "-c", self.path("mosquitto.conf")], self)
        until("the broker", lambda: listens(self.mqtt_port), 20)
        camera = Child([NATIVE, "simulate", clip, "--listen", "127.0.0.1:0", "--path", "cam"], self)
        url = camera.wait_line("rtsp://")
        self.messages = Child(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.mqtt_port), "-v", "-t", "ocelli/#"], self)
        with open(self.path("ocelli.yaml"), "w", encoding="utf-8") as file:
            file.write(
                f"node: arm\nmodel: {{file: {MARKER}, backend: cpu, ort_library: {ORT_ARM}}}\n"
                f"mqtt: mqtt://127.0.0.1:{self.mqtt_port}\n"
                f"rtsp: {{listen: '127.0.0.1:{self.rtsp_port}', bitrate_kbps: 2000}}\n"
                f"http: 127.0.0.1:{self.http_port}\nstats_interval: 1s\ncameras:\n  gate: {url}\n"
            )
        return Child(emulated("run", "-c", self.path("ocelli.yaml")), self, stream="stderr")

    def watch(self, pictures):
        """RGB pictures of the annotated stream, as this machine's GStreamer decodes them."""
        raw = self.path("seen.rgb")
        viewer = Child(
            ["gst-launch-1.0", "-q", "rtspsrc", f"location=rtsp://127.0.0.1:{self.rtsp_port}/gate", "protocols=tcp", "latency=100",
             "!", "rtph264depay", "!", "h264parse", "!", "avdec_h264", "!", "videoconvert", "!",
             f"video/x-raw,format=RGB,width={WIDTH},height={HEIGHT}", "!", "filesink", f"location={raw}", "buffer-mode=unbuffered"],
            self, stream="stderr")  # fmt: skip
        size = WIDTH * HEIGHT * 3
        until("a picture of the annotated stream", lambda: os.path.exists(raw) and os.path.getsize(raw) >= pictures * size)
        viewer.end()
        with open(raw, "rb") as file:
            return [file.read(size) for _ in range(pictures)]

    @staticmethod
    def bounds(picture, colour, first_row=0):
        """Bounding box of the pixels near a colour."""
        box = None
        for y in range(first_row, HEIGHT):
            for x in range(WIDTH):
                at = 3 * (y * WIDTH + x)
                if sum(abs(picture[at + c] - colour[c]) for c in range(3)) < 110:
                    box = (min(x, box[0]), min(y, box[1]), max(x, box[2]), max(y, box[3])) if box else (x, y, x, y)
        return box

    def test_camera_in_messages_and_boxes_out_then_an_orderly_end(self):
        service = self.start()
        line = self.messages.wait_line("ocelli/arm/gate/frame", '"label":"marker"')
        message = json.loads(line.split(" ", 1)[1])
        self.assertEqual(message["backend"], "cpu")
        box = message["objects"][0]["box"]
        self.assertAlmostEqual((box[3] - box[1]) * HEIGHT, SIDE, delta=4)
        self.assertAlmostEqual(box[1] * HEIGHT, 100, delta=4)

        # The box is drawn around the square: its lower half, because the label's plate hides the upper edge.
        pictures = self.watch(12)
        drawn = 0
        for picture in pictures:
            square = self.bounds(picture, RED)
            if square is None:
                continue  # no picture of the camera yet
            line = self.bounds(picture, GREEN, first_row=(square[1] + square[3]) // 2)
            drawn += line is not None and all(abs(line[i] - square[i]) <= 8 for i in (0, 2, 3))
        self.assertGreaterEqual(drawn, len(pictures) // 2, "pictures with the box around the square")
        self.tell(f"{drawn} of {len(pictures)} pictures carry the box")

        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/api/v1/health", timeout=20) as reply:
            self.assertIn('"cpu"', reply.read().decode())
        self.messages.wait_line("ocelli/arm/stats", '"backend":"cpu"')
        service.process.send_signal(signal.SIGTERM)
        self.assertEqual(service.process.wait(PATIENCE), 0, "\n".join(service.lines[-15:]))
        self.messages.wait_line("ocelli/arm/available stopped")


def choose_emulation():
    """Programs that start themselves need the namespace; else a script stands in for the program."""
    if os.environ.get("OCELLI_EMULATION") != "direct" and run(emulated("--version")).returncode == 0:
        return
    os.environ["OCELLI_EMULATION"] = "direct"
    print("!!! no private binfmt_misc here (Linux 6.7, user namespaces): the child that tries libraries is started by a script")
    script = os.path.join(tempfile.mkdtemp(prefix="ocelli-aarch64."), "ocelli")
    with open(script, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec "{EMULATE}" "{ARM}" "$@"\n')
    os.chmod(script, 0o755)
    # For the emulated one only: the native one must not start it.
    PREFIX.extend(["env", f"OCELLI_EXE={script}"])


if __name__ == "__main__":
    choose_emulation()
    unittest.main(verbosity=2)
