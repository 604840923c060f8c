"""Which gene of the plan a site's name of one is: by itself, by a table of two columns, without an Ensembl version."""

from __future__ import annotations

import re
from typing import Literal

from client.data.csv_rows import ColumnName
from client.data.side_table import SideTable
from common.errors import ConfigError, DataError
from common.plan_expression import ExpressionData

Versions = Literal["keep", "drop"]

_VERSIONED = re.compile(r"(ENS[A-Z]{0,6}[GTPE][0-9]{11})\.[0-9]+")
_SHOWN = 5


class GeneNames(SideTable):
    """A CSV file that gives the plan's names for this site's."""

    here: ColumnName
    plan: ColumnName


class SiteGenes:
    """Finds the plan's genes among the names that a file has, each once."""

    def __init__(
        self, data: ExpressionData, names: GeneNames | None, *, versions: Versions, absent: tuple[str, ...]
    ) -> None:
        """Read the table of names, if there is one.

        Raises:
            ConfigError: If `absent` does not fit the plan.
            DataError: If the table of names is wrong.
        """
        _check_absent(data, absent)
        self._genes = tuple(name for name in data.genes if name not in set(absent))
        self._wanted, self._versions = frozenset(self._genes), versions
        self._renamed = {} if names is None else self._read(names, frozenset(data.genes))
        self._seen: dict[str, str] = {}
        self._with_version: set[str] = set()

    def at(self, name: str, where: str) -> str | None:
        """The plan's gene that a name of the file means; None where the plan does not ask for it.

        Args:
            name: As it stands in the file, without white space around it.
            where: For messages: line or column; names no patient.

        Raises:
            DataError: If the same gene was named before.
        """
        gene = self._meant(name)
        if gene not in self._wanted:
            if self._versions == "keep" and self._bare(name) in self._wanted:
                self._with_version.add(self._bare(name))
            return None
        if gene in self._seen:
            raise DataError(
                f"{where}: is the plan's gene '{gene}', as {self._seen[gene]} is; every gene stands once: keep one of "
                "them, or correct `gene_names`"
            )
        self._seen[gene] = where
        return gene

    def refuse_missing(self, file: str) -> None:
        """Refuse a file that has not named all genes.

        Raises:
            DataError: Names some of those that are missing: they are the plan's words.
        """
        missing = [gene for gene in self._genes if gene not in self._seen]
        if not missing:
            return
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        hint = "give the plan's names for this site's by `gene_names`, or list under `absent` what this site lacks"
        if any(gene in self._with_version for gene in missing):
            hint = "the file has Ensembl ids with versions: write `ensembl_versions: drop` in the mapping"
        raise DataError(f"{file}: lacks {len(missing)} of the plan's {len(self._genes)} genes ({shown}); {hint}")

    def _meant(self, name: str) -> str:
        name = self._bare(name) if self._versions == "drop" else name
        return self._renamed.get(name, name)

    @staticmethod
    def _bare(name: str) -> str:
        found = _VERSIONED.fullmatch(name)
        return found[1] if found else name

    def _read(self, names: GeneNames, genes: frozenset[str]) -> dict[str, str]:
        renamed: dict[str, str] = {}
        for line, (here, plan) in names.cells((names.here, names.plan)):
            bare = self._bare(here) if self._versions == "drop" else here
            if not bare or not plan:
                continue  # many ids have no symbol
            if renamed.setdefault(bare, plan) != plan and {renamed[bare], plan} & genes:
                raise DataError(
                    f"{names.file.name} line {line}: gives a name of this site a second name of the plan, and one of "
                    "both is a gene of the plan; keep one of the lines"
                )
        return renamed


def _check_absent(data: ExpressionData, absent: tuple[str, ...]) -> None:
    for name in absent:
        if name not in data.names:
            raise ConfigError(
                f"mapping: absent: seen '{name}', which is no gene of the plan; remove it, or write the plan's name"
            )
    if len(set(absent)) < len(absent):
        raise ConfigError("mapping: absent: seen a gene twice; every gene stands once: remove one")
    if absent and data.missing != "flag":
        raise ConfigError(
            "mapping: absent: seen genes; the plan uses no sample without one of its genes (missing: leave-out); agree "
            "on a plan without them, or with `missing: flag`"
        )
    if data.names <= set(absent):
        raise ConfigError(f"mapping: absent: seen all {len(data.genes)} genes of the plan; one at least must be here")
