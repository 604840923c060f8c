#!/bin/sh
# Runs the plan once: a run that was interrupted goes on, and a finished one is not started again, because the
# hospitals' budgets pay for one. Whatever cannot be read or is not known ends it: a new run would spend again.
#   run-plan.sh PLAN SERVER_YAML [OPTIONS OF fedward-server run]
set -eu
plan=$1 config=$2
shift 2
# No pipe: the shell would see the status of its last command only, and an answer that never came as "no run yet".
runs=$(fedward-server status --config "$config") || { echo "run-plan: cannot tell whether the plan has run; nothing was started" >&2; exit 1; }
# One line per run: ID STATE, last complete round ...
last=$(printf '%s\n' "$runs" | tail -n 1)
if [ -n "$runs" ]; then
  run=${last%% *} rest=${last#* }
  case $run in *[!0-9a-f]*) rest='' ;; esac
  case ${rest%%,*} in
    finished) echo "this plan has run: $last" && exit 0 ;;
    running | stopped) set -- --run-id "$run" "$@" && echo "going on with the run that was interrupted: $last" ;;
    *) echo "run-plan: cannot tell whether the plan has run, for the last line of status is: $last" >&2 && exit 1 ;;
  esac
fi
exec fedward-server run "$plan" --config "$config" "$@"
