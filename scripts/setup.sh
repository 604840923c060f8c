#!/bin/sh
# Makes .venv for this checkout. The dependencies (about 6 GB with torch) are installed once per lock file into a cache
# folder and shared by all checkouts; .venv itself holds only this checkout and small start scripts.
#   FEDWARD_PYTHON  Python 3.11 to use          (default: python3.11, else python3)
#   FEDWARD_CACHE   where environments are kept (default: ~/.cache/fedward); at most three stay
set -eu
cd "$(dirname "$0")/.."

python=${FEDWARD_PYTHON:-$(command -v python3.11 || command -v python3 || true)}
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)
case $version in
  3.11.*) ;;
  *) echo "setup: Python 3.11 is needed, seen ${version} (${python:-no python3}); install it or set FEDWARD_PYTHON" >&2; exit 2 ;;
esac

requirements=$("$python" - <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join(project["dependencies"] + extras["site"] + extras["data"] + extras["dev"]))
PY
)
cache=${FEDWARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fedward}/environments
key=$({ cat constraints.txt; echo "$requirements $version $(uname -m)"; } | sha256sum | cut -c1-16)
shared=$cache/$key
mkdir -p "$cache"

(
  flock 9
  if [ ! -e "$shared/.complete" ]; then
    echo "setup: installing dependencies into $shared (once per lock file; some minutes)" >&2
    rm -rf "$shared"
    "$python" -m venv "$shared"
    echo "$requirements" > "$shared/requirements.txt"
    "$shared/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
      -r "$shared/requirements.txt" 2> "$shared/pip.log" || { tail -n 20 "$shared/pip.log" >&2; exit 1; }
  fi
  touch "$shared/.complete"
  # Each environment is large: the three that were used last stay.
  ls -1t "$cache"/*/.complete | tail -n +4 | while read -r old; do rm -rf "$(dirname "$old")"; done
) 9> "$cache/.lock"

if [ "$(cat .venv/.key 2>/dev/null || true)" != "$shared $PWD" ]; then
  rm -rf .venv
  "$python" -m venv --without-pip .venv
  packages=.venv/lib/python3.11/site-packages
  echo "import site; site.addsitedir('$shared/lib/python3.11/site-packages')" > "$packages/fedward_dependencies.pth"
  "$python" scripts/start_scripts.py "$shared" .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . \
    2> .venv/pip.log || { tail -n 20 .venv/pip.log >&2; exit 1; }
  echo "$shared $PWD" > .venv/.key
fi
