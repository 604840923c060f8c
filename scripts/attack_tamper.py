"""A coordinator that lies: random forgeries against real hospitals, each of which must be refused by name."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import PeerError
from scripts.attack_forged_rounds import (
    AFTER_A_SPLIT,
    AFTER_REVEAL,
    AFTER_UPLOADS,
    WHILE_DELIVERING,
    show_two_openings,
)
from scripts.attack_forged_sums import FORGED_SUMS
from scripts.attack_forgery import Forge, Forgery, World, naive_accepts
from scripts.attack_hospitals import Snapshot, StageOptions
from scripts.attack_result import AttackResult, Say
from scripts.attack_shrink import attack_shrink
from scripts.attack_stage import open_stage

ACCEPTED = "accepted"


@dataclass(slots=True)
class Tally:
    """What came of one kind of forgery."""

    attacks: int = 0
    naive: int = 0
    rounds_later: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    undetected: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For the report."""
        return {
            "attacks": self.attacks,
            "accepted_by_a_naive_hospital": self.naive,
            "detected_rounds_later": self.rounds_later,
            "errors": dict(self.errors),
            "undetected": self.undetected,
        }


def attack_tamper(*, seed: int, count: int, say: Say) -> list[AttackResult]:
    """Play `count` lies, of every kind as often as of any other.

    Args:
        seed: Chooses them.
        count: How many.
        say: Takes a line of progress.
    """
    with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder), StageOptions(seed=seed)) as stage:
        say("tamper: playing three rounds to lie in")
        world = World.play(stage, Path(folder), seed=seed)
        scenes: list[tuple[Snapshot, Mapping[str, Forge]]] = [
            (world.delivering, FORGED_SUMS | WHILE_DELIVERING),
            (world.uploaded, AFTER_UPLOADS),
            (world.revealed, AFTER_REVEAL),
            (_split(world, Path(folder) / "split"), AFTER_A_SPLIT),
        ]
        kinds = sum(len(forges) for _, forges in scenes)
        tallies, done, honest = dict[str, Tally](), 0, dict[str, str]()
        for scene, forges in scenes:
            scene.restore()
            for name, forge in forges.items():
                tally, times = tallies.setdefault(name, Tally()), (count * (len(tallies)) // kinds) - done
                say(f"tamper: {done} of {count} done; {name} x {times}")
                for _ in range(times):
                    _play(world, forge, scene, tally)
                done += times
            if forges is not AFTER_A_SPLIT:
                # Hospitals that refuse everything would pass, too.
                honest[scene.folder.name] = _answer(world, _honest(world, scene))
    undetected = sum(len(tally.undetected) for tally in tallies.values())
    naive = sum(tally.naive for tally in tallies.values())
    return [
        AttackResult(
            attack="tamper",
            figure=undetected,
            control=naive,
            passed=undetected == 0 and naive > 0 and done == count and set(honest.values()) == {ACCEPTED},
            claim="lies that were not refused with their named error: 0; control: lies that a hospital takes which "
            "checks signatures, form and decryption only: some",
            details={
                "attacks": done,
                "honest_messages": honest,
                "kinds": {name: tally.as_json() for name, tally in tallies.items()},
            },
        ),
        attack_shrink(seed=seed, say=say),
    ]


def _honest(world: World, scene: Snapshot) -> Forgery:
    """What an honest coordinator sends next."""
    stage, name = world.stage, world.someone()
    frame = (
        stage.open_with(stage.openings[3], 3, name, send=stage.missing(name, 3))
        if scene is world.delivering
        else stage.unmask_request(world.made, name, world.survivors())
    )
    return Forgery(name, frame, frozenset({ACCEPTED}))


def _split(world: World, folder: Path) -> Snapshot:
    world.delivering.restore()
    show_two_openings(world)
    return Snapshot.of(world.stage.sites, folder)


def _play(world: World, forge: Forge, scene: Snapshot, tally: Tally) -> None:
    """One lie; the hospitals are set back after it."""
    forgery = forge(world)
    tally.attacks += 1
    tally.naive += int(naive_accepts(world.stage, forgery))
    tally.rounds_later = max(tally.rounds_later, forgery.rounds_later)
    answer = _answer(world, forgery)
    tally.errors[answer] += 1
    if answer not in forgery.errors:
        tally.undetected.append(f"{answer} instead of {' or '.join(sorted(forgery.errors))}")
    scene.restore(*{forgery.hospital, *forgery.touched})


def _answer(world: World, forgery: Forgery) -> str:
    """Name of the error with which a hospital refuses a message; what is no PeerError is no refusal of a message."""
    try:
        world.stage.sites[forgery.hospital].hospital.answer(forgery.frame)
    except PeerError as refusal:
        return refusal.code
    except Exception as error:  # noqa: BLE001 -- a crash is a finding, not the end of the search
        return f"crash: {type(error).__name__}"
    return ACCEPTED
