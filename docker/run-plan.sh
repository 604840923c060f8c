#!/bin/sh
# Runs the plan once: a run that was interrupted goes on, and a finished one is not started again, because the
# hospitals' budgets pay for one.
#   run-plan.sh PLAN SERVER_YAML [OPTIONS OF fedward-server run]
set -eu
plan=$1 config=$2
shift 2
last=$(fedward-server status --config "$config" | tail -n 1)
case $last in
  '') ;;
  *' finished,'*) echo "this plan has run: $last" && exit 0 ;;
  *) set -- --run-id "${last%% *}" "$@" && echo "going on with the run that was interrupted: $last" ;;
esac
exec fedward-server run "$plan" --config "$config" "$@"
