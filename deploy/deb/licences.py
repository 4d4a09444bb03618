#!/usr/bin/env python3
"""Writes what the licences of the linked crates ask a binary package to carry.

    licences.py TRIPLE COPYRIGHT TEXTS

COPYRIGHT gets a Debian copyright file (DEP-5): Ocelli, its model, and one stanza per crate that is linked for TRIPLE.
TEXTS gets the licence files of those crates word by word, each different text once. Run in the root of the repository.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap

# What is a licence in a crate's folder; some have a folder of them.
FILES = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense|authors)([-_.].*)?$|^licenses?$", re.IGNORECASE)

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ocelli
Comment:
 The program is one binary that holds the Rust crates below. Their licence files, word by word, are in
 /usr/share/doc/ocelli/third-party-licences.txt.gz.
 .
 The crate noto-sans-mono-bitmap holds glyphs drawn with Noto Sans Mono, a font of The Noto Project Authors under the
 SIL Open Font License 1.1.

Files: *
Copyright: 2026 The Ocelli authors
License: MIT or Apache-2.0

Files: usr/share/ocelli/models/yolov5s-efficientnetv2/*
Copyright: 2026 The Ocelli authors
License: CC-BY-4.0
Comment:
 The data that the weights were trained on is named in /usr/share/doc/ocelli/model-yolov5s-efficientnetv2.md.gz.
"""

# Licences that Debian systems carry, and the one text that belongs to us and not to a crate.
SHARED = {"Apache-2.0": "Apache-2.0"}
LINKS = {"CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode"}


def linked(triple):
    """The crates that are linked into the program: normal dependencies, theirs and so on; not ours."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", triple]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    seen, left = set(), [root]
    while left:
        crate = left.pop()
        if crate in seen:
            continue
        seen.add(crate)
        left += [dep["pkg"] for dep in nodes[crate]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    seen.discard(root)
    return sorted((packages[crate] for crate in seen), key=lambda package: (package["name"], package["version"]))


def texts(package):
    """The licence files of a crate as (name, text)."""
    folder = os.path.dirname(package["manifest_path"])
    names = {name for name in os.listdir(folder) if FILES.match(name)}
    if package["license_file"]:
        names.add(package["license_file"])
    found = []
    for name in sorted(names):
        path = os.path.join(folder, name)
        inner = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
        for below in inner:
            path_of_file = os.path.join(path, below) if below else path
            if os.path.isfile(path_of_file):
                with open(path_of_file, encoding="utf-8", errors="replace") as file:
                    found.append((os.path.join(name, below) if below else name, file.read().strip()))
    return found


def expression(package):
    """The SPDX expression in the words of DEP-5."""
    spdx = package["license"]
    if not spdx:
        sys.exit(f"licences.py: the crate {package['name']} has no `license`: deny.toml should have refused it")
    spdx = re.sub(r"\s*/\s*", " OR ", spdx)
    spdx = re.sub(r" WITH (\S+)", lambda match: f" with {match[1]} exception", spdx)
    return spdx.replace(" OR ", " or ").replace(" AND ", " and ")


def holders(package, files):
    """Who holds the copyright: the lines of the licence files, else the authors that the crate names."""
    lines = []
    for _, text in files:
        for line in re.findall(r"^\W*copyright\s+(?:\(c\)|©|\d{4})[^\n]*$", text, re.IGNORECASE | re.MULTILINE):
            line = re.sub(r"^\W*copyright\s+(\(c\)|©)?\s*", "", line, flags=re.IGNORECASE).strip()
            # The Apache licence shows how a notice looks; that is nobody's.
            if line and "yyyy" not in line and line not in lines:
                lines.append(line)
    return lines or package["authors"] or [f"the authors of {package['name']}"]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    triple, copyright_file, texts_file = sys.argv[1:]
    crates = linked(triple)
    stanzas, shown, licences = [HEAD], {}, {"MIT", "Apache-2.0", "CC-BY-4.0"}
    body = [f"The licences of the {len(crates)} crates in the program ocelli for {triple}.\n"]
    for package in crates:
        name = f"{package['name']} {package['version']}"
        licence = expression(package)
        files = texts(package)
        copyright_lines = "\n ".join(holders(package, files))
        source = package["repository"] or package["homepage"] or f"the crate {package['name']}"
        stanzas.append(
            f"Files: crates/{package['name']}-{package['version']}/*\nCopyright: {copyright_lines}\n"
            f"License: {licence}\nComment: Source: {source}\n"
        )
        licences |= set(re.findall(r"[A-Za-z0-9][\w.+-]*", re.sub(r" with \S+ exception|\b(or|and)\b", " ", licence)))
        body.append("=" * 78 + f"\n{name}\n{licence}\n")
        if not files:
            body.append(f"The crate holds no licence file. By: {', '.join(package['authors']) or 'not named'}. See {source}\n")
        for file, text in files:
            key = hashlib.sha256(re.sub(r"\s+", " ", text).encode()).hexdigest()
            if key in shown:
                body.append(f"--- {file}: the text of {shown[key]}\n")
            else:
                shown[key] = f"{name}, {file}"
                body.append(f"--- {file}\n\n{text}\n")
    for licence in sorted(licences):
        if licence in SHARED:
            text = f"The text is in /usr/share/common-licenses/{SHARED[licence]}."
        elif licence in LINKS:
            text = f"The text is at {LINKS[licence]}."
        else:
            text = "The text is in /usr/share/doc/ocelli/third-party-licences.txt.gz, below each crate that uses it."
        stanzas.append(f"License: {licence}\n" + textwrap.indent(text, " ") + "\n")
    with open(copyright_file, "w", encoding="utf-8") as file:
        file.write("\n".join(stanzas))
    with open(texts_file, "w", encoding="utf-8") as file:
        file.write("\n".join(body))


if __name__ == "__main__":
    main()
