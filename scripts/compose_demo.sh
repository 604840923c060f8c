#!/bin/sh
# The demo in containers from nothing to finished: builds the images, starts a coordinator and five hospitals, follows
# the run, says how long it took and what it needs, and removes containers and volumes again. Needs Docker with compose.
#   scripts/compose_demo.sh [--keep]     --keep leaves the containers up
# Settings are environment variables, all with defaults: FEDWARD_DEMO_ROUNDS, FEDWARD_FLEET_PORT, FEDWARD_BUILD_NETWORK
# (`host` where containers have no way out), FEDWARD_PIP_CONF, TORCH_INDEX and the others of docker/compose.yaml.
set -eu
cd "$(dirname "$0")/.."
keep=${1:-}
export DOCKER_BUILDKIT=1

if ! reason=$(docker version --format '{{.Server.Version}}' 2>&1 && docker compose version 2>&1); then
  echo "compose_demo: Docker with compose is needed: $(echo "$reason" | tail -n 1)" >&2
  exit 2
fi
compose() { docker compose --ansi never -f docker/compose.yaml "$@"; }
if [ -n "$(compose ps --quiet)" ]; then
  echo "compose_demo: the demo is up already; end it with: docker compose -f docker/compose.yaml down --volumes" >&2
  exit 2
fi
finish() { [ "$keep" = --keep ] || compose down --volumes --timeout 30 > /dev/null 2>&1; }
trap finish EXIT
trap 'exit 130' INT TERM

started=$(date +%s)
echo "== building the images (the first time installs torch: some minutes)"
compose build --quiet
built=$(date +%s)

echo "== starting; load of this machine: $(cut -d' ' -f1 /proc/loadavg) on $(nproc) cores"
said=$(compose up --detach 2>&1) || { echo "$said" | tail -n 20 >&2; compose logs --tail 20 >&2; exit 1; }
compose logs --follow --no-log-prefix init run
# `logs` ends with the container; `run` starts anew after a failure, and goes on with its run.
until [ "$(compose ps --all --format '{{.State}}' run)" = exited ]; do sleep 1; done
ended=$(date +%s)
status=$(compose ps --all --format '{{.ExitCode}}' run)

echo "== images"
docker images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' --filter 'reference=fedward-*'
echo "== memory and processes now"
compose ps --quiet | xargs docker stats --no-stream --format '{{.Name}}  {{.MemUsage}}  {{.PIDs}}'
echo "== privacy spent, as hospital-1 sees it"
compose exec -T hospital-1-site fedward-client status --config /fedward/keys/site.yaml
echo "== seconds: images $((built - started)), up to finished $((ended - built)); load $(cut -d' ' -f1 /proc/loadavg); status $status"
exit "$status"
