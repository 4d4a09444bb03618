#!/usr/bin/env python3
"""Checks the Markdown pages without a network: links and anchors, the book's contents, files, keys, metrics, error texts and
commands that pages name.

Commands and configurations are run against a built binary (`OCELLI`, else `target/release/ocelli`); without one, that part is
skipped and reported. `--self-test` proves that broken pages are refused.
"""
import functools
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
# Folders whose files pages may name by their path from the root.
TOP = ("src/", "tests/", "docs/", "deploy/", "configs/", "models/", "benches/", ".ci/", ".github/")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*(\S*)")
CODE = re.compile(r"`([^`\n]+)`")
INCLUDE = re.compile(r"\{\{#include\s+([^}:\s]+)(?::(\d+))?(?::\d*)?\s*\}\}")
# Verbs whose first argument is a verb too.
NESTED = ("config", "models")


class Page:
    """A Markdown page, taken apart into text and code blocks."""

    def __init__(self, path, text):
        self.path = path
        self.name = os.path.relpath(path, ROOT)
        self.folder = os.path.dirname(path)
        self.text = text
        self.prose = []  # (line number, line) outside code blocks
        self.blocks = []  # (line number, language, text)
        self._split()

    def _split(self):
        fence, language, start, inside = None, "", 0, []
        for number, line in enumerate(self.text.splitlines(), 1):
            match = FENCE.match(line)
            if fence is None and match:
                fence, language, start, inside = match[2], match[3], number, []
            elif fence is not None and line.strip() == fence:
                self.blocks.append((start, language, "\n".join(inside)))
                fence = None
            elif fence is not None:
                inside.append(line)
            else:
                self.prose.append((number, line))

    def anchors(self):
        seen, anchors = {}, set()
        for _, line in self.prose:
            heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
            if not heading:
                anchors.update(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
                continue
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchors.add(slug if count == 0 else f"{slug}-{count}")
        return anchors


class Check:
    def __init__(self, pages):
        self.pages = {page.path: page for page in pages}
        self.errors = []
        self.skipped = []
        self.counts = dict.fromkeys(("links", "files", "keys", "metrics", "error texts", "commands", "configurations"), 0)

    def error(self, page, number, message):
        self.errors.append(f"{page.name}:{number}: {message}")

    def links(self, page):
        for number, line in page.prose:
            for target in LINK.findall(CODE.sub(lambda code: "x" * len(code[0]), line)):
                if re.match(r"[a-z][a-z+.-]*:", target):
                    continue
                self.counts["links"] += 1
                file, _, anchor = target.partition("#")
                path = os.path.normpath(os.path.join(page.folder, file)) if file else page.path
                book = os.path.join(ROOT, "docs") + os.sep
                if not os.path.exists(path):
                    self.error(page, number, f"link to `{target}`: there is no such file")
                elif page.path.startswith(book) and not path.startswith(book):
                    self.error(page, number, f"link to `{target}` leaves the book: name the file in backticks instead")
                elif anchor and path in self.pages and anchor not in self.pages[path].anchors():
                    self.error(page, number, f"link to `{target}`: the page has no such heading")

    def includes(self, page):
        for number, line in page.prose:
            for file, start in INCLUDE.findall(line):
                path = os.path.join(page.folder, file)
                if not os.path.exists(path):
                    self.error(page, number, f"includes `{file}`: there is no such file")
                elif start:
                    with open(path, encoding="utf-8") as included:
                        lines = included.read().splitlines()
                    if len(lines) < int(start) or not lines[int(start) - 1].startswith("## "):
                        self.error(page, number, f"includes `{file}` from line {start}, which is not a heading `## …`")

    def names(self, page):
        """Files, items of the code and configuration keys in backticks."""
        for number, line in page.prose:
            for code in CODE.findall(line):
                self.name(page, number, code)

    def name(self, page, number, code):
        path = code.split(" ")[0].rstrip("/:,")
        example = path.endswith((".onnx", ".mp4"))
        if not example and re.fullmatch(r"[\w.@/*-]+", path) and (path.startswith(TOP) or re.fullmatch(r"[a-z_]+(/[a-z_*]+)+\.rs", path)):
            self.counts["files"] += 1
            places = [os.path.join(ROOT, path), os.path.join(ROOT, "src", path), os.path.join(page.folder, path)]
            if not any(glob.glob(place) for place in places):
                self.error(page, number, f"`{path}`: there is no such file")
        item = re.fullmatch(r"(\w+)((?:::\w+)+)(\(\))?", code)
        if item and item[1] in rooms():
            self.counts["files"] += 1
            for word in item[2].split("::")[1:]:
                if not re.search(rf"\b{word}\b", sources()) and not glob.glob(f"{ROOT}/src/{item[1]}/**/{word}*", recursive=True):
                    self.error(page, number, f"`{code}`: the code has no `{word}`")
        key = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)", code)
        if key and key[1].split(".")[0] in keys() and not re.search(r"\.(rs|md|py|sh|json|yaml|toml|onnx|service|conf|lan|jsonl|flatbuffers|mp4)$", code):
            self.counts["keys"] += 1
            if key[1] not in keys():
                self.error(page, number, f"`{code}`: the configuration has no such key (configs/schema.json)")

    def metrics(self, page):
        for number, line in page.prose:
            for name in CODE.findall(line):
                bare = re.match(r"ocelli_[a-z0-9_]+", name)
                if not bare:
                    continue
                self.counts["metrics"] += 1
                words = {bare[0], bare[0].removeprefix("ocelli_")}
                words |= {word.removesuffix("_total") for word in words}
                if not any(f'"{word}"' in sources() or f'"{word}{{' in sources() for word in words):
                    self.error(page, number, f"`{bare[0]}`: the code has no such metric")

    def all_metrics(self):
        """Each metric that the code serves has a row in docs/http.md."""
        page = self.pages.get(os.path.join(ROOT, "docs", "http.md"))
        if page is None:
            return
        code = "".join(text.split("#[cfg(test)]")[0] for text in source_files() if "DescriptorEncoder" in text)
        named = set(re.findall(r"`((?:ocelli|process)_[a-z0-9_]+)`", page.text))
        for name in sorted(set(re.findall(r'"((?:ocelli|process)_[a-z0-9_]+)"', code))):
            if not {name, f"{name}_total"} & named:
                self.error(page, 1, f"the metric `{name}` is not described")

    def error_texts(self, page):
        """Headings of the troubleshooting page are error texts of the code, `…` in place of what varies."""
        if page.name != "docs/troubleshooting.md":
            return
        for number, line in page.prose:
            heading = re.match(r"###\s+(.*)", line)
            if not heading:
                continue
            # A code span whose text holds backticks is written with two of them.
            spans = re.findall(r"``\s?(.+?)\s?``|`([^`]+)`", heading[1])
            for text in (double or single for double, single in spans):
                self.counts["error texts"] += 1
                for part in text.split("…"):
                    if part.strip() and squeeze(part) not in texts():
                        self.error(page, number, f"the code has no error text with `{part.strip()}`")

    def commands(self, page, binary):
        for number, _, text in [block for block in page.blocks if block[1] in ("sh", "bash")]:
            joined = re.sub(r"\\\n\s*", " ", text)
            for line in joined.splitlines():
                self.command(page, number, line.split("  #")[0], binary)
        for number, line in page.prose:
            for code in CODE.findall(line):
                if re.match(r"(sudo )?(ocelli|make) ", code):
                    self.command(page, number, code, binary)

    def command(self, page, number, line, binary):
        for part in re.split(r"&&|\|\||[;|]|<\(|\$\(", line):
            words = part.replace(")", " ").split()
            while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
                words.pop(0)
            if words[:1] == ["make"]:
                self.counts["commands"] += 1
                for word in words[1:]:
                    if "=" not in word and not word.startswith("-") and word not in targets():
                        self.error(page, number, f"`make {word}`: the Makefile has no such target")
            elif words[:1] == ["ocelli"] and binary and len(words) > 1:
                self.counts["commands"] += 1
                self.ocelli(page, number, words[1:], binary)

    def ocelli(self, page, number, words, binary):
        verbs = [words[0]]
        if words[0] in NESTED and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            verbs.append(words[1])
        if not re.fullmatch(r"[a-z-]+", words[0]) or words[0].startswith("-"):
            return
        help_text = help_of(binary, tuple(verbs))
        if help_text is None:
            self.error(page, number, f"`ocelli {' '.join(verbs)}`: there is no such command")
            return
        for word in words[len(verbs):]:
            flag = re.match(r"(--[a-z][a-z-]*|-[a-zA-Z])(?:=|$)", word.strip("[],…"))
            if flag and not re.search(rf"(?<![\w-]){re.escape(flag[1])}(?![\w-])", help_text):
                self.error(page, number, f"`ocelli {' '.join(verbs)}` has no option {flag[1]}")

    def configurations(self, page, binary):
        for number, language, text in page.blocks:
            if language != "yaml" or not re.search(r"^cameras:", text, re.M):
                continue
            self.counts["configurations"] += 1
            with tempfile.TemporaryDirectory() as folder:
                # Files that an example names need not be here.
                text = re.sub(r"(?<![\w:/])/(var|etc)/", f"{folder}/\\1/", text)
                for name in re.findall(r"[\w./-]+\.(?:onnx|mp4|pem)\b", text):
                    path = os.path.join(folder, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    open(path, "w", encoding="utf-8").close()
                if not os.path.exists(os.path.join(folder, "models")):
                    os.symlink(os.path.join(ROOT, "models"), os.path.join(folder, "models"))
                file = os.path.join(folder, "ocelli.yaml")
                with open(file, "w", encoding="utf-8") as out:
                    out.write(text)
                run = subprocess.run(
                    [binary, "config", "check", "--without-secrets", "-c", file], capture_output=True, text=True, check=False
                )
                if run.returncode != 0:
                    self.error(page, number, f"the configuration is refused:\n{run.stdout}{run.stderr}".rstrip())

    def rooms(self):
        """The table of rooms in ARCHITECTURE.md and EDGES of the layering test name the same edges."""
        page = self.pages.get(os.path.join(ROOT, "ARCHITECTURE.md"))
        if page is None:
            return
        rows = {}
        for number, line in page.prose:
            row = re.fullmatch(r"\| `(\w+)/`.* \| [^|]* \| ([^|]*) \|", line)
            if row:
                rows[row[1]] = (number, row[2])
        with open(os.path.join(ROOT, "tests", "it", "layering.rs"), encoding="utf-8") as file:
            table = re.search(r"const EDGES.*?= \[(.*?)\n\];", file.read(), re.S)[1]
        edges = {}
        for room, uses in re.findall(r"\(\s*\"(\w+)\",\s*&\[(.*?)\],?\s*\)", table, re.S):
            edges[room] = {use.split("::")[0] for use in re.findall(r"\"([^\"]+)\"", uses)}
        for room, uses in edges.items():
            number, text = rows.pop(room, (1, None))
            written = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", text or "")))
            if text is None:
                self.error(page, number, f"the table of rooms lacks `{room}/`, which EDGES has")
            elif text.startswith("all") and uses != {"*"} and len(uses) < 8:
                self.error(page, number, f"`{room}/` may use {sorted(uses)} by EDGES, not all")
            elif not text.startswith("all") and written != uses:
                self.error(page, number, f"`{room}/` may use {sorted(uses)} by EDGES, not {sorted(written)}")
        for room, (number, _) in rows.items():
            self.error(page, number, f"EDGES in tests/it/layering.rs lacks `{room}`")

    def book(self):
        summary = self.pages.get(os.path.join(ROOT, "docs", "SUMMARY.md"))
        if summary is None:
            return
        listed = {os.path.normpath(os.path.join(summary.folder, t)) for _, line in summary.prose for t in LINK.findall(line)}
        for path, page in self.pages.items():
            if path.startswith(summary.folder + os.sep) and page is not summary and path not in listed:
                self.error(page, 1, "docs/SUMMARY.md does not list this page")

    def run(self, binary):
        for page in self.pages.values():
            self.links(page)
            self.includes(page)
            self.names(page)
            self.metrics(page)
            self.error_texts(page)
            self.commands(page, binary)
            if binary:
                self.configurations(page, binary)
        self.book()
        self.rooms()
        self.all_metrics()
        if not binary:
            self.skipped.append("options of commands and configurations in pages (no built binary; set OCELLI)")


def squeeze(text):
    return re.sub(r"\s+", " ", text).strip()


@functools.cache
def source_files():
    text = []
    for path in sorted(glob.glob(f"{ROOT}/src/**/*.rs", recursive=True)):
        with open(path, encoding="utf-8") as file:
            text.append(file.read())
    return text


@functools.cache
def sources():
    return "\n".join(source_files())


@functools.cache
def texts():
    """The code with continued strings joined and escapes resolved."""
    joined = re.sub(r"\\\n\s*", "", sources())
    return squeeze(joined.replace('\\"', '"').replace("{{", "{").replace("}}", "}"))


@functools.cache
def rooms():
    return {name for name in os.listdir(os.path.join(ROOT, "src")) if os.path.isdir(os.path.join(ROOT, "src", name))}


@functools.cache
def targets():
    with open(os.path.join(ROOT, "Makefile"), encoding="utf-8") as file:
        return set(re.findall(r"^([a-z0-9-]+):", file.read(), re.M))


@functools.cache
def keys():
    """All configuration keys as `a.b.c`, from the schema; sections under a user's names also stand without them."""
    with open(os.path.join(ROOT, "configs", "schema.json"), encoding="utf-8") as file:
        schema = json.load(file)
    found = set()

    def walk(node, path, depth=0):
        if not isinstance(node, dict) or depth > 12:
            return
        if "$ref" in node:
            target = schema
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            walk(target, path, depth + 1)
        for option in [*node.get("anyOf", []), *node.get("oneOf", []), *node.get("allOf", [])]:
            walk(option, path, depth + 1)
        for name, below in node.get("properties", {}).items():
            here = f"{path}.{name}" if path else name
            found.add(here)
            found.add(name)
            walk(below, here, depth + 1)
            if name in ("detect", "reconnect"):
                walk(below, name, depth + 1)
        for below in [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]:
            walk(below, path, depth + 1)

    walk(schema, "")
    return found


@functools.cache
def help_of(binary, verbs):
    run = subprocess.run([binary, *verbs, "--help"], capture_output=True, text=True, check=False)
    return run.stdout if run.returncode == 0 else None


def all_pages():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "*.md"], capture_output=True, text=True, check=True
    )
    # Those in src/ are templates, whose links fit where the page is written to.
    paths = [os.path.join(ROOT, name) for name in listed.stdout.splitlines() if not name.startswith("src/")]
    pages = []
    for path in filter(os.path.exists, paths):
        with open(path, encoding="utf-8") as file:
            pages.append(Page(path, file.read()))
    return pages


def find_binary():
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    binary = os.environ.get("OCELLI", os.path.join(target, "release", "ocelli"))
    return os.path.abspath(binary) if os.access(binary, os.X_OK) else None


def self_test(binary):
    """Each of these must be refused."""
    cases = [
        ("docs/glossary.md", "[x](nowhere.md)", "no such file"),
        ("docs/glossary.md", "[x](getting-started.md#nowhere)", "no such heading"),
        ("docs/glossary.md", "[x](../README.md)", "leaves the book"),
        ("docs/glossary.md", "{{#include nowhere.md}}", "no such file"),
        ("docs/glossary.md", "`src/nowhere.rs`", "no such file"),
        ("docs/glossary.md", "`types::Nowhere`", "the code has no"),
        ("docs/glossary.md", "`mqtt.nowhere`", "no such key"),
        ("docs/glossary.md", "`ocelli_nowhere_total`", "no such metric"),
        ("docs/troubleshooting.md", "### `this is … no error text of ours`", "no error text"),
        ("docs/glossary.md", "`make nowhere`", "no such target"),
        ("docs/nowhere.md", "text", "does not list this page"),
        ("docs/http.md", "", "is not described"),
        ("ARCHITECTURE.md", "| `types/` | x | config |", "may use"),
        ("ARCHITECTURE.md", "", "lacks `types/`"),
    ]
    if binary:
        cases += [
            ("docs/glossary.md", "`ocelli nowhere now`", "no such command"),
            ("docs/glossary.md", "```sh\nocelli detect x.jpg --nowhere\n```", "no option --nowhere"),
            ("docs/glossary.md", "```yaml\nnowhere: 1\ncameras: {a: \"rtsp://h/\"}\n```", "is refused"),
        ]
    for name, text, expected in cases:
        path = os.path.join(ROOT, name)
        pages = [page for page in all_pages() if page.path != path] + [Page(path, text)]
        check = Check(pages)
        check.run(binary)
        if not any(expected in error for error in check.errors if error.startswith(name)):
            sys.exit(f"check-docs: `{text}` in {name} was not refused with `{expected}`")
    print(f"check-docs: {len(cases)} broken pages are refused")


def main():
    binary = find_binary()
    if "--self-test" in sys.argv[1:]:
        self_test(binary)
        return
    check = Check(all_pages())
    check.run(binary)
    made = subprocess.run([os.path.join(ROOT, "docs", "make-messages.py"), "--check"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        check.errors.append(made.stderr.strip())
    for reason in check.skipped:
        print(f"!!! SKIPPED: {reason}")
    for error in check.errors:
        print(error, file=sys.stderr)
    seen = ", ".join(f"{count} {what}" for what, count in check.counts.items() if count)
    print(f"check-docs: {len(check.pages)} pages, {seen}; {len(check.errors)} errors")
    sys.exit(1 if check.errors else 0)


if __name__ == "__main__":
    main()
