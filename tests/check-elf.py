#!/usr/bin/env python3
"""Holds a built `ocelli` to the oldest box that it must start on: JetPack 5 (Ubuntu 20.04).

Usage: check-elf.py [--machine AArch64] [--glibc 2.31] [--gst 1.16] [--glib 2.64] [--max-mb 40] BINARY
       check-elf.py --make-table FOLDER > tests/data/gstreamer-symbols.txt

Fails, with one line per reason, when BINARY
  - is no program for the machine, has an RPATH or RUNPATH, or is bigger than --max-mb;
  - needs a library that is not on every box: ONNX Runtime, CUDA and TensorRT are opened while it runs, never linked;
  - asks for a symbol version of glibc, or for a GStreamer or GLib function, newer than the limits.

GStreamer's and GLib's functions carry no version in an ELF file. In which version each appeared is told by a table made of
the `symbols` files of Debian's packages (FOLDER holds them, one a package; deploy/cross/env.sh puts them into its root). A
function that is not in the table counts as too new. The linker binds all functions at start: one missing and the program
does not start at all.
"""
import argparse
import os
import re
import subprocess
import sys

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "gstreamer-symbols.txt")
EVERYWHERE = re.compile(
    r"(libc|libm|libdl|libpthread|librt)\.so\.\d+|libgcc_s\.so\.1|ld-linux-[\w-]+\.so\.\d+"
    r"|libgst\w+-1\.0\.so\.0|lib(glib|gobject|gio|gmodule)-2\.0\.so\.0"
)
# gcc's run-time library is versioned by itself; this is Ubuntu 20.04's.
LIBGCC = (10, 0)


def number(version):
    """'2.64.1' as (2, 64). A development series belongs to the release that it became: 2.63.2 is (2, 64)."""
    major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
    return major, minor


def release(version):
    major, minor = number(version)
    return major, minor + minor % 2


def make_table(folder):
    """Prints the table: a line with library and version, then the functions that appeared in it."""
    since = {}
    for name in sorted(os.listdir(folder)):
        library = "glib" if "glib" in name else "gst"
        with open(os.path.join(folder, name), encoding="utf-8") as lines:
            for line in lines:
                match = re.match(r" (\S+)@Base (\S+)", line)
                if match:
                    since.setdefault((library, release(match[2])), set()).add(match[1])
    print("# In which version of GStreamer and GLib each of their symbols appeared, after Debian's symbols files.")
    print("# Made by: tests/check-elf.py --make-table FOLDER")
    for (library, version), names in sorted(since.items()):
        print(library, dotted(version))
        line = ""
        for name in sorted(names):
            if len(line) + len(name) > 118:
                print(line)
                line = ""
            line += " " + name
        print(line)


def read_table():
    since, current = {}, None
    with open(TABLE, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#"):
                continue
            if line.startswith(" "):
                since.update(dict.fromkeys(line.split(), current))
            else:
                library, version = line.split()
                current = (library, number(version))
    return since


def dotted(version):
    return ".".join(str(part) for part in version)


def readelf(binary, *options):
    command = ["readelf", "--wide", *options, binary]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    if done.returncode or "Error" in done.stderr:
        sys.exit(f"check-elf: {binary}: not an ELF file that readelf understands: {done.stderr.strip()[:200]}")
    return done.stdout


def check_head(binary, limits, wrong):
    head = readelf(binary, "--file-header")
    machine = re.search(r"Machine:\s+(.*)", head)[1]
    if machine != limits.machine:
        wrong.append(f"it is for {machine}, not for {limits.machine}")
    kind = re.search(r"Type:\s+(\w+)", head)[1]
    if kind not in ("DYN", "EXEC"):
        wrong.append(f"its type is {kind}: not a program")
    size = os.path.getsize(binary) / 1e6
    if size > limits.max_mb:
        wrong.append(f"it has {size:.1f} MB, more than {limits.max_mb}")
    return f"{machine}, {size:.1f} MB"


def check_libraries(binary, wrong):
    dynamic = readelf(binary, "--dynamic")
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    if not needed:
        wrong.append("it needs no library at all: not a build of ocelli")
    for library in needed:
        if not EVERYWHERE.fullmatch(library):
            wrong.append(f"it needs {library}, which is not on every box")
    for tag, path in re.findall(r"\((RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
        wrong.append(f"it has an {tag}: {path}")
    return " ".join(needed)


def check_versions(binary, limits, wrong):
    """Symbol versions: glibc's and libgcc's."""
    needs = set(re.findall(r"Name: (GLIBC|GCC)_([\d.]+)\s+Flags", readelf(binary, "--version-info")))
    newest = (0, 0)
    for library, version in sorted(needs):
        limit = number(limits.glibc) if library == "GLIBC" else LIBGCC
        if number(version) > limit:
            wrong.append(f"it needs {library}_{version}, newer than {dotted(limit)}")
        if library == "GLIBC":
            newest = max(newest, number(version))
    return f"newest of glibc {dotted(newest)}"


def check_functions(binary, limits, wrong):
    """Undefined symbols without a version: GStreamer's and GLib's."""
    since = read_table()
    limit = {"gst": number(limits.gst), "glib": number(limits.glib)}
    newest = {"gst": ((0, 0), "none"), "glib": ((0, 0), "none")}
    count = 0
    for line in readelf(binary, "--dyn-syms").splitlines():
        column = line.split()
        if len(column) < 8 or column[6] != "UND" or column[4] == "WEAK" or "@" in column[7]:
            continue
        symbol = column[7]
        count += 1
        if symbol not in since:
            wrong.append(f"it needs {symbol}, which the table does not know")
            continue
        library, version = since[symbol]
        newest[library] = max(newest[library], (version, symbol))
        if version > limit[library]:
            wrong.append(f"it needs {symbol} of {library} {dotted(version)}, newer than {dotted(limit[library])}")
    if count == 0:
        wrong.append("it uses nothing of GStreamer: not a build of ocelli")
    told = (f"{library} {dotted(version)} ({symbol})" for library, (version, symbol) in newest.items())
    return f"{count} functions of GStreamer and GLib, newest of " + ", of ".join(told)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-table", metavar="FOLDER")
    parser.add_argument("--machine", default="AArch64")
    parser.add_argument("--glibc", default="2.31")
    parser.add_argument("--gst", default="1.16")
    parser.add_argument("--glib", default="2.64")
    parser.add_argument("--max-mb", type=float, default=40)
    parser.add_argument("binary", nargs="?")
    limits = parser.parse_args()
    if limits.make_table:
        return make_table(limits.make_table)
    if not limits.binary:
        parser.error("BINARY is missing")
    wrong = []
    facts = [
        check_head(limits.binary, limits, wrong),
        check_libraries(limits.binary, wrong),
        check_versions(limits.binary, limits, wrong),
        check_functions(limits.binary, limits, wrong),
    ]
    for reason in wrong:
        print(f"check-elf: {limits.binary}: {reason}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    print(f"check-elf: {limits.binary}: {'; '.join(facts)}")
    return None


if __name__ == "__main__":
    main()
