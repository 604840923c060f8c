"""The demo's plan made small: a head on small images, whose rounds take seconds on two cores."""

from __future__ import annotations

from pathlib import Path

import yaml

DEMO_PLAN = Path(__file__).parents[2] / "configs" / "plans" / "demo.yaml"


def small_template(*, rounds: int, **cohort: int) -> str:
    """A plan without hospitals, YAML; `cohort` replaces some settings of that section."""
    content = yaml.safe_load(DEMO_PLAN.read_text(encoding="utf-8"))
    content["model"] |= {"image_size": 64, "projection": 32}
    content["training"] |= {"rounds": rounds}
    content["cohort"] |= cohort
    return yaml.safe_dump(content)


def write_small_plan(path: Path, *, rounds: int, **cohort: int) -> Path:
    """The same as a file."""
    path.write_text(small_template(rounds=rounds, **cohort), encoding="utf-8")
    return path
