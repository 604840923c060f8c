# ruff: noqa: INP001 -- a program of the images, no part of a package
"""Prints the project's dependencies, and those of the extras that are named: `requirements.py pyproject.toml site`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
lines = [*project["dependencies"]]
for extra in sys.argv[2:]:
    lines += project["optional-dependencies"][extra]
sys.stdout.write("\n".join(lines) + "\n")
