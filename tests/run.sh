#!/bin/bash
# Runs all tests, then prints how many passed, failed and were skipped, each skip with its reason. Fails when a test fails or when
# the tests leave files in the temporary folder. Arguments go to `cargo test`.
#
# REQUIRE_TEST_DATA=1: a skip is a failure unless tests/allowed-skips.txt lists the test.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/ocelli-tests.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/tmp"
: > "$work/skips"

TMPDIR=$work/tmp OCELLI_SKIPS=$work/skips cargo test --release --locked "$@" 2>&1 | tee "$work/log"
status=${PIPESTATUS[0]}

count() { awk -v word="$1" '/^test result:/ { for (n = 2; n <= NF; n++) if ($n ~ "^" word) sum += $(n - 1) } END { print sum + 0 }' "$work/log"; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)
# A shared library or clip that is absent is reported once per test that needs it.
sort -u -o "$work/skips" "$work/skips"
skipped=$(cut -d' ' -f1 "$work/skips" | sort -u | wc -l)

echo
echo "=== tests: $passed passed, $failed failed, $ignored ignored; $skipped of them were skipped in whole or in part"
sed 's/^/    /' "$work/skips"

left=$(cd "$work/tmp" && find . -mindepth 1 -maxdepth 1 | sort)
if [ -n "$left" ]; then
  echo "=== the tests left these files in the temporary folder:"
  printf '%s\n' "$left" | sed 's/^/    /'
  [ "$status" -ne 0 ] || status=1
fi
if [ "$passed" -eq 0 ] && [ "$status" -eq 0 ]; then
  echo "=== no test ran"
  status=1
fi
exit "$status"
