"""A coordinator and one hospital together against another hospital's update.

They hold every byte that the coordinator saw and the hospital's vault: the CKKS key that all share, its own mask
secrets and the shares it was dealt. Of the victim's masks they know those with the colluder, with hospitals that
dropped out and, once the round is unmasked, the self mask. Those with the other hospitals stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.advert import OwnAdvert, load_own_advert
from client.opening import Opening as SiteOpening
from common.ckks import EncryptedSum, PackedUpload, add_in_place
from common.errors import FedwardError, SplitViewError
from common.masks import MaskPlace, remove_masks
from scripts.attack_hospitals import Snapshot, StageOptions
from scripts.attack_key_recovery import raw_values
from scripts.attack_result import AttackResult, Say
from scripts.attack_stage import Attempt, Stage, open_stage
from server.masked_round import Opening

MOST_WITH_MASKS = 0.02
LEAST_WITHOUT = 0.99
# Of 60,818 values an update that has nothing to do with the victim's correlates by 0.004, one standard deviation.
WIDTH = 16


def correlation(one: NDArray[np.float64], other: NDArray[np.int64]) -> float:
    """|Pearson correlation| of what was recovered with what is true."""
    return abs(float(np.corrcoef(one, other.astype(np.float64))[0, 1]))


@dataclass(frozen=True, slots=True)
class Secrets:
    """A round's secrets at all hospitals, which the harness reads from their folders, and the updates under them."""

    own: Mapping[str, OwnAdvert]
    updates: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, stage: Stage, number: int) -> Secrets:
        """Read them while the round is open."""
        own = {name: known for name in stage.sites if (known := _secrets(stage, name, number)) is not None}
        stored = {name: stage.storage(name).load_update(number) for name in stage.sites}
        return cls(own, {name: update for name, update in stored.items() if update is not None})


def recover(stage: Stage, made: Attempt, *, colluder: str, victim: str, known: Secrets) -> tuple[float, float]:
    """The best that coordinator and colluder can make of a victim's upload, and what they would make without masks.

    Returns:
        |Correlation| with the true update: the best of the upload as it came and of the upload without the masks that
        they know; and that of the upload without any mask.
    """
    upload = made.replies[victim].upload
    transcript = stage.aggregates[made.number - 1].entry.transcript
    if upload is None or transcript is None:
        return 1.0, 0.0
    survivors = [one.manifest.hospital for one in stage.aggregates[made.number - 1].entry.survivors]
    seeds = dict(zip(survivors, transcript.seeds, strict=True))
    gone = dict(zip((n for n in made.opening.hospitals if n not in survivors), transcript.mask_secrets, strict=True))
    theirs = {colluder: known.own[colluder].secrets.key} | {name: bytes.fromhex(one) for name, one in gone.items()}
    everything = {name: one.secrets.key for name, one in known.own.items() if name != victim}
    vectors = {
        "as it came": upload.words,
        "known masks off": _without(stage, made, victim, seed=bytes.fromhex(seeds[victim]), partners=theirs),
    }
    reached = max(_read(stage, colluder, words, upload, known.updates[victim]) for words in vectors.values())
    bare = _without(stage, made, victim, seed=bytes.fromhex(seeds[victim]), partners=everything)
    return reached, _read(stage, colluder, bare, upload, known.updates[victim])


def _without(
    stage: Stage, made: Attempt, victim: str, *, seed: bytes, partners: Mapping[str, bytes]
) -> NDArray[np.uint64]:
    """The victim's words without its self mask and its masks with some partners."""
    upload, agreed = made.replies[victim].upload, stage.plan.agreed
    words = upload.words if upload is not None else np.zeros((1, 2048), dtype=np.uint64)
    own = next(one.advert for one in made.opening.adverts if one.advert.hospital == victim)
    at = agreed.position(victim)
    remove_masks(
        words,
        stage.parameters,
        place=MaskPlace(stage.run, stage.plan.digest, agreed.epoch, made.number, made.attempt),
        seeds={at: seed},
        mask_keys={at: own.mask_key},
        dropped={agreed.position(name): secret for name, secret in partners.items()},
    )
    return words


def _read(
    stage: Stage, colluder: str, words: NDArray[np.uint64], upload: PackedUpload, truth: NDArray[np.int64]
) -> float:
    """Decrypt words with the colluder's key, whatever they hold, and compare."""
    key, size = stage.sites[colluder].keys.epoch(1).ckks, stage.plan.agreed.trainable_parameters
    total = EncryptedSum(upload.parameters, words, (upload.seeds,))
    values = np.concatenate([raw_values(key, total, chunk=chunk) for chunk in range(len(words))])
    return correlation(values[:size], truth[:size])


def _secrets(stage: Stage, name: str, number: int) -> OwnAdvert | None:
    member = stage.sites[name].keys.member
    return load_own_advert(member, stage.storage(name), run=stage.run, round_number=number)


def difference_of_two_sums(stage: Stage, number: int, *, victim: str, attempts: tuple[int, int]) -> float:
    """Without the rule of one opening per round: mask the same updates under two, and subtract the two sums.

    Returns:
        |Correlation| of the difference with the victim's update.
    """
    known, whole = Secrets.of(stage, number), stage.openings[number]
    without = Opening(tuple(one for one in whole.adverts if one.advert.hospital != victim))
    sums = [
        _opened_sum(stage, opening, known, number=number, attempt=attempt)
        for opening, attempt in zip((whole, without), attempts, strict=True)
    ]
    size = stage.plan.agreed.trainable_parameters
    return correlation((sums[0] - sums[1])[:size].astype(np.float64), known.updates[victim][:size])


def _opened_sum(stage: Stage, opening: Opening, known: Secrets, *, number: int, attempt: int) -> NDArray[np.int64]:
    agreed, words, seeds = stage.plan.agreed, None, []
    for name in opening.hospitals:
        site = stage.sites[name]
        vector = site.keys.epoch(1).ckks.encrypt(known.updates[name], site.grid)
        shown = SiteOpening(opening.delivered_to(agreed.position(name)), known.own[name])
        shown.mask(vector, site.keys.member, run=stage.run, attempt=attempt)
        seeds.append(vector.seeds)
        if words is None:
            words = vector.words
        else:
            add_in_place(words, vector.words, stage.parameters)
    total = EncryptedSum(stage.parameters, np.zeros((1, 2048), dtype=np.uint64) if words is None else words, (*seeds,))
    remove_masks(
        total.words,
        stage.parameters,
        place=MaskPlace(stage.run, stage.plan.digest, agreed.epoch, number, attempt),
        seeds={agreed.position(name): known.own[name].secrets.seed for name in opening.hospitals},
        mask_keys={agreed.position(one.advert.hospital): one.advert.mask_key for one in opening.adverts},
        dropped={},
    )
    any_site = stage.sites[opening.hospitals[0]]
    return any_site.keys.epoch(1).ckks.decrypt(total, any_site.grid)


def _refusals(stage: Stage, ask: Callable[[str], bytes]) -> dict[str, str]:
    """What each hospital says to a request: the name of its error, or `accepted`."""
    said = {}
    for name, site in stage.sites.items():
        try:
            site.hospital.answer(ask(name))
        except FedwardError as error:
            said[name] = error.code
        else:
            said[name] = "accepted"
    return said


def _split(stage: Stage, number: int, *, victim: str, attempts: tuple[int, int]) -> AttackResult:
    """Show hospitals two openings of one round, in one attempt or in two."""
    whole = stage.open_round(number)
    views = (whole, Opening(tuple(one for one in whole.adverts if one.advert.hospital != victim)))
    one_attempt = attempts[0] == attempts[1]
    second = {name for name in stage.names if name != victim and one_attempt} - set(stage.names[:3])
    made = Attempt(number, attempts[0], whole, stage.new_sum())
    for name in stage.names:
        shown = views[name in second]
        frame = stage.open_with(shown, number, name, attempt=attempts[0], send=stage.missing(name, number))
        made.replies[name] = stage.admit(frame, name, number, attempt=attempts[0], opening=shown.digest)
    said = {}
    if one_attempt:
        said["unmask"] = _refusals(stage, lambda name: stage.unmask_request(made, name, made.survivors()))
    said["the other opening"] = _refusals(
        stage,
        lambda name: stage.open_with(views[name not in second], number, name, attempt=attempts[1]),
    )
    control = difference_of_two_sums(stage, number, victim=victim, attempts=attempts)
    codes = [code for each in said.values() for code in each.values()]
    missed = sum(code != SplitViewError.__name__ for code in codes)
    return AttackResult(
        attack="collusion-split-opening" if one_attempt else "collusion-two-attempts",
        figure=missed,
        control=control,
        passed=missed == 0 and control > LEAST_WITHOUT,
        claim="requests that were not refused as SplitViewError: 0; control, |correlation| of the difference of two "
        f"sums with the victim's update if both openings are taken: > {LEAST_WITHOUT}",
        details={"requests": len(codes), "refusals": said},
    )


def attack_collusion(*, seed: int, count: int, say: Say) -> list[AttackResult]:
    """Attack one hospital's update with all that the coordinator and another hospital hold.

    Args:
        seed: Of the images.
        count: Pairs of colluder and victim, of each of two rounds: one with all hospitals, one with a dropout.
        say: Takes a line of progress.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_stage(Path(folder), StageOptions(width=WIDTH, seed=seed)) as stage,
    ):
        figures = list[tuple[float, float]]()
        for number, names in ((1, stage.names), (2, stage.names[:-1])):
            say(f"collusion: round {number} with {len(names)} of {len(stage.names)} hospitals")
            stage.round(number, names=names)
            known, made = Secrets.of(stage, number), stage.attempts[number]
            for colluder, victim in list(permutations(names, 2))[:count]:
                figures.append(recover(stage, made, colluder=colluder, victim=victim, known=known))
        say("collusion: two openings of one round")
        stage.open_round(3)
        before, victim = Snapshot.of(stage.sites, Path(folder) / "before"), stage.names[1]
        splits = [_split(stage, 3, victim=victim, attempts=(0, 0))]
        before.restore()
        splits.append(_split(stage, 3, victim=victim, attempts=(0, 1)))
        reached, bare = max(one for one, _ in figures), min(one for _, one in figures)
        masks = AttackResult(
            attack="collusion",
            figure=reached,
            control=bare,
            passed=reached < MOST_WITH_MASKS and bare > LEAST_WITHOUT,
            claim=f"largest |correlation| with the victim's update: < {MOST_WITH_MASKS}; control, smallest one without "
            f"masks: > {LEAST_WITHOUT}",
            details={"parameters": stage.plan.agreed.trainable_parameters, "pairs": len(figures)},
        )
    return [masks, *splits]
