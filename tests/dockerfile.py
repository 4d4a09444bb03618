#!/usr/bin/env python3
"""Reads Dockerfiles as `docker build` would, for machines that have no Docker.

    dockerfile.py lint FILE ...
        Fails on what is wrong for certain: unknown instructions, sources that are not in the context or are ignored,
        images without a version, shell that does not parse, a last stage that runs as root or cannot be asked for health.

    dockerfile.py try FILE ROOT [--arg NAME=VALUE] [--built PATH=FILE]
        Carries out the last stage in ROOT, a folder with a base system (as root, changes ROOT): RUN by chroot, COPY from
        the context. `--built` is what the stage before would have left at PATH; of that one it is only tried whether its
        packages can be had. Then starts the container's command as its
        user in a network of its own, until HEALTHCHECK passes, and stops it by SIGTERM.

The context is the root of the repository, the working directory.
"""

import argparse
import fnmatch
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

KNOWN = set("ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split())


def parse(path):
    """[(line number, instruction, its text)], continued lines joined as the shell will see them."""
    found, pending, start = [], "", 0
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.lstrip().startswith("#") or (not line.strip() and not pending):
                continue
            start = start if pending else number
            if line.rstrip("\n").endswith("\\"):
                pending += line.rstrip("\n")[:-1] + " "
                continue
            word, _, rest = (pending + line).strip().partition(" ")
            found.append((start, word, rest.strip()))
            pending = ""
    if pending:
        sys.exit(f"{path}:{start}: the file ends in a continued line")
    return found


def stages(instructions):
    """The instructions before the first FROM, and those of each stage."""
    before, split = [], []
    for instruction in instructions:
        if instruction[1] == "FROM":
            split.append([])
        (split[-1] if split else before).append(instruction)
    return before, split


def expand(text, values):
    """${NAME} and $NAME of those that are known; the shell gets the others."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values.get(match[1] or match[2], match[0]), text)


def ignored(path):
    """Does .dockerignore keep `path` out of the context?"""
    out = False
    with open(".dockerignore", encoding="utf-8") as file:
        for line in (line.strip() for line in file):
            if not line or line.startswith("#"):
                continue
            pattern = line.lstrip("!").removeprefix("**/")
            parts = path.split("/")
            heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
            heads += parts if "**/" in line else []
            if any(fnmatch.fnmatchcase(head, pattern) for head in heads):
                out = not line.startswith("!")
    return out


def json_form(text):
    """The words of an instruction in exec form; None in shell form."""
    try:
        words = json.loads(text)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def copies(text):
    """(stage or None, sources, destination) of a COPY."""
    words = shlex.split(text)
    flags = [word for word in words if word.startswith("--")]
    words = [word for word in words if not word.startswith("--")]
    stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
    return stage, words[:-1], words[-1]


def lint(path):
    """What is wrong in one Dockerfile, as lines for people."""
    problems, values = [], {}
    before, split = stages(parse(path))
    names = set()

    def wrong(number, text):
        problems.append(f"{path}:{number}: {text}")

    if not split:
        return [f"{path}: there is no FROM"]
    for number, word, text in [*before, *(one for stage in split for one in stage)]:
        if word not in KNOWN:
            wrong(number, f"unknown instruction {word}")
        elif word == "ARG" and "=" in text:
            name, _, value = text.partition("=")
            values[name] = value.strip('"')
        elif word == "FROM":
            image, _, name = expand(text, values).partition(" AS ")
            if image not in names and (":" not in image or image.endswith(":latest")):
                wrong(number, f"the image {image} has no version")
            names.add(name.strip())
        elif word == "RUN":
            syntax = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
            if syntax.returncode:
                wrong(number, f"the shell refuses this: {syntax.stderr.strip()}")
            if "apt-get install" in text and not all(
                part in text for part in ("apt-get update", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")
            ):
                wrong(number, "apt-get install without update, --no-install-recommends or removal of the lists")
        elif word in ("COPY", "ADD"):
            stage, sources, _ = copies(expand(text, values))
            if stage is not None:
                if stage not in names:
                    wrong(number, f"there is no stage {stage} before this line")
                continue
            for source in sources:
                # What a build leaves may be absent now; it must not be ignored.
                if not source.startswith("target/") and not glob.glob(source):
                    wrong(number, f"{source} is not in the context")
                if source != "." and ignored(source):
                    wrong(number, f"{source} is in .dockerignore")
    last = {word: (number, text) for number, word, text in split[-1]}
    if last.get("USER", (0, "root"))[1].split(":")[0] in ("root", "0"):
        wrong(split[-1][0][0], "the last stage runs as root")
    for word in ("ENTRYPOINT", "CMD"):
        if word not in last or json_form(last[word][1]) is None:
            wrong(last.get(word, (0, ""))[0], f"the last stage needs {word} in exec form, or signals go to a shell")
    if "HEALTHCHECK" not in last:
        wrong(split[-1][0][0], "the last stage has no HEALTHCHECK")
    return problems


class Trial:
    """The last stage of a Dockerfile, carried out in a folder."""

    def __init__(self, path, root, args, built):
        self.root, self.built = os.path.abspath(root), built
        self.before, split = stages(parse(path))
        self.earlier, self.last = split[:-1], split[-1]
        self.args, self.env, self.workdir, self.user = args, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, "/", "0:0"
        self.entrypoint, self.command, self.health = [], [], []

    def inside(self, path):
        """`path` of the container on this machine."""
        return os.path.join(self.root, os.path.normpath(os.path.join(self.workdir, path)).lstrip("/"))

    def prefix(self, user):
        """The start of a command that runs in the container."""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return ["chroot", f"--userspec={user}", self.root, "env", "-i", *variables]

    def run(self, number, text):
        print(f"    {number}: RUN {' '.join(text.split())[:100]}…", flush=True)
        variables = [f"{name}={value}" for name, value in self.args.items()]
        shell = ["sh", "-c", f"cd {shlex.quote(self.workdir)} && {text}"]
        run = subprocess.run([*self.prefix("0:0"), *variables, *shell], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"line {number}: status {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")

    def build(self):
        for number, word, text in (one for stage in self.earlier for one in stage):
            if word == "RUN" and "apt-get install" in text:
                self.run(number, text.replace("apt-get install -y", "apt-get install -s"))
        for number, word, text in self.last:
            if word == "RUN":
                self.run(number, text)
            elif word == "COPY":
                self.copy(expand(text, {**self.args, **self.env}))
            elif word == "ENV":
                for pair in shlex.split(text):
                    name, _, value = pair.partition("=")
                    self.env[name] = value
            elif word == "ARG":
                name, _, value = text.partition("=")
                self.args.setdefault(name, value.strip('"'))
            elif word == "WORKDIR":
                self.workdir = text
                os.makedirs(self.inside("."), exist_ok=True)
            elif word == "USER":
                self.user = text
            elif word == "ENTRYPOINT":
                self.entrypoint = json_form(text)
            elif word == "CMD":
                self.command = json_form(text)
            elif word == "HEALTHCHECK":
                self.health = json_form(text[text.index("CMD ") + 4 :])

    def copy(self, text):
        stage, sources, destination = copies(text)
        found = [self.built[source] for source in sources] if stage else [f for s in sources for f in glob.glob(s)]
        target = self.inside(destination)
        if destination.endswith("/"):
            os.makedirs(target, exist_ok=True)
        elif len(found) != 1:
            sys.exit(f"COPY {text}: {len(found)} files for one destination")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        for source in found:
            shutil.copy(source, os.path.join(target, os.path.basename(source)) if destination.endswith("/") else target)

    def start(self):
        """Health must fail before the start, pass soon after it, and SIGTERM must end the program with status 0."""
        inside = self.prefix(self.user)
        workdir = ["sh", "-c", 'cd "$0" && exec "$@"', self.workdir]
        health = shlex.join([*inside, *self.health])
        program = shlex.join([*inside, *workdir, *self.entrypoint, *self.command])
        script = f"""
            ip link set lo up
            {health} 2>/dev/null && {{ echo 'healthy before the start'; exit 1; }}
            {program} & pid=$!
            for try in $(seq 120); do {health} 2>/dev/null && break; kill -0 $pid || exit 1; sleep 0.5; done
            {health} || {{ echo 'never healthy'; kill -9 $pid; exit 1; }}
            echo 'healthy'; kill $pid; wait $pid
        """
        run = subprocess.run(["unshare", "--net", "timeout", "-k", "5", "120", "bash", "-c", script])
        if run.returncode:
            sys.exit(f"the container's command failed (status {run.returncode})")


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("lint").add_argument("files", nargs="+")
    trial = verbs.add_parser("try")
    trial.add_argument("file")
    trial.add_argument("root")
    trial.add_argument("--arg", action="append", default=[])
    trial.add_argument("--built", action="append", default=[])
    given = parser.parse_args()
    if given.verb == "lint":
        problems = [problem for file in given.files for problem in lint(file)]
        print("\n".join(problems), end="\n" if problems else "")
        sys.exit(bool(problems))
    split = lambda pairs: dict(pair.split("=", 1) for pair in pairs)  # noqa: E731
    trial = Trial(given.file, given.root, split(given.arg), split(given.built))
    trial.build()
    trial.start()


if __name__ == "__main__":
    main()
