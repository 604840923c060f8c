"""`fedward attack`: the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.attack_result import AttackResult
from scripts.report_file import require_writable, write_json


class Family(StrEnum):
    """What is attacked."""

    COLLUSION = "collusion"
    TAMPER = "tamper"
    HOSTILE = "hostile"
    KEY_RECOVERY = "key-recovery"
    ALL = "all"


FULL = {Family.COLLUSION: 20, Family.TAMPER: 500, Family.HOSTILE: 100_000, Family.KEY_RECOVERY: 64}
QUICK = {Family.COLLUSION: 2, Family.TAMPER: 52, Family.HOSTILE: 2_000, Family.KEY_RECOVERY: 8}


def attack(
    family: Annotated[Family, typer.Argument(help="Which attack to try.")] = Family.ALL,
    *,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses images and attacks; never keys or noise.")] = 0,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many: pairs of colluder and victim per round, lies, malformed messages, aggregates. "
            "Default: 20, 500, 100000, 64.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few attacks of each kind: 2, 52, 2000, 8.")] = False,
) -> None:
    """Attack hospitals and coordinator in this process: their real code, keys, ledgers and training.

    Every attack has a control, which shows that it works where the defence is missing. Ends with status 1 if an attack
    succeeds or a control fails. docs/attacks.md says how to read the results.
    """
    require_writable(json_path)
    counts = QUICK if quick else FULL
    chosen = list(counts) if family is Family.ALL else [family]
    results = []
    for one in chosen:
        for result in run_attack(one, seed=seed, count=count or counts[one]):
            results.append(result)
            for line in lines(result):
                print(line)
    write_json(json_path, [result.as_json() for result in results])
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def run_attack(family: Family, *, seed: int, count: int) -> Sequence[AttackResult]:
    """Try one family of attacks, with lines of progress on stderr."""
    # torch and TenSEAL load only for the commands that need them.
    from scripts.attack_collusion import attack_collusion  # noqa: PLC0415
    from scripts.attack_hostile import attack_hostile  # noqa: PLC0415
    from scripts.attack_key_recovery import attack_key_recovery  # noqa: PLC0415
    from scripts.attack_tamper import attack_tamper  # noqa: PLC0415

    families = {
        Family.COLLUSION: attack_collusion,
        Family.TAMPER: attack_tamper,
        Family.HOSTILE: attack_hostile,
        Family.KEY_RECOVERY: attack_key_recovery,
    }
    return families[family](seed=seed, count=count, say=_clock())


def lines(result: AttackResult) -> Iterator[str]:
    """What the command prints of one result."""
    yield f"{result.attack}: {'passed' if result.passed else 'NOT PASSED'}"
    yield f"  {result.claim}"
    yield f"  figure {result.figure:.3g}, control {result.control:.3g}"


def _clock() -> Callable[[str], None]:
    start = time.monotonic()
    return lambda text: print(f"{time.monotonic() - start:6.1f} s  {text}", file=sys.stderr)
