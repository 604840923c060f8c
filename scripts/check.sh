#!/bin/sh
# The gate, the same on a laptop and in CI: format, lint, types, import contracts, dependencies, tests.
# Arguments go to pytest: scripts/check.sh -k ledger. Without any the unit and property tests share the processors, file by
# file, and the end-to-end tests follow one by one: they time real processes.
set -eu
cd "$(dirname "$0")/.."
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
bin=.venv/bin
echo "== format";  $bin/ruff format --check --quiet .
echo "== lint";    $bin/ruff check --quiet .
echo "== types";   $bin/mypy --no-error-summary
echo "== imports"; PYTHONPATH=. $bin/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; exit 1; }
echo "== dependencies"; $bin/deptry . --no-ansi > .venv/deptry.log 2>&1 || { cat .venv/deptry.log; exit 1; }
echo "== tests"
if [ $# -gt 0 ]; then
  exec $bin/python -m pytest --quiet --durations=10 "$@"
fi
# A short folder: Unix sockets below it have paths of at most 107 bytes.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fXXXX")
trap 'rm -rf "$scratch"' EXIT
# dash runs no EXIT trap when a signal ends it.
trap 'exit 130' INT
trap 'exit 143' TERM
OMP_NUM_THREADS=1 $bin/python -m pytest --quiet --durations=15 --numprocesses auto --maxprocesses 4 --dist loadfile \
  --basetemp "$scratch" tests/unit tests/property
$bin/python -m pytest --quiet --durations=15 tests/e2e
