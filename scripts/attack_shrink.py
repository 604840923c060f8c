"""A coordinator with three of ten hospitals opens a smaller sum than it may, by showing each hospital other survivors.

Every honest hospital gives its shares for seven survivors, as the plan asks, but for other ones than its neighbours.
Put together, and with the colluders' shares, they drop five hospitals instead of three: two honest updates stay in the
sum, where four are promised to hospitals that see one set of survivors. docs/protocol.md has the bound. It is not
prevented without a third exchange; whoever is sent such a sum sees it, one round later.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.ckks import EncryptedSum, add_in_place, encode_sum
from common.errors import FedwardError
from common.mask_messages import SHARE_BYTES, Reveal, decode_document
from common.masks import MaskPlace, remove_masks
from common.messages import AggregateEntry, Transcript
from common.pair_box import open_share, pair_secret
from common.shamir import combine_shares
from scripts.attack_hospitals import StageOptions
from scripts.attack_result import AttackResult, Say
from scripts.attack_stage import Attempt, Stage, open_stage
from server.aggregate import Aggregate, skipped

HOSPITALS, COLLUDERS, DROPPED = 10, 3, 5


@dataclass(slots=True)
class Loot:
    """Shares by dealer and roster position."""

    seeds: dict[str, dict[int, bytes]] = field(default_factory=dict)
    keys: dict[str, dict[int, bytes]] = field(default_factory=dict)


def attack_shrink(*, seed: int, say: Say) -> AttackResult:
    """Open a sum of two honest hospitals, and send it to the hospitals.

    Args:
        seed: Of the images.
        say: Takes a line of progress.
    """
    options = StageOptions(hospitals=HOSPITALS, rounds=2, seed=seed, colluders=COLLUDERS)
    with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder), options) as stage:
        say("tamper: ten hospitals, three of which side with the coordinator")
        made = stage.collect(1)
        loot = _reveals(stage, made)
        _add_colluders_shares(stage, made, loot)
        kept = stage.names[DROPPED:]
        seeds = {name: combine_shares(loot.seeds[name], stage.plan.threshold) for name in kept}
        secrets = {name: combine_shares(loot.keys[name], stage.plan.threshold) for name in stage.names[:DROPPED]}
        total = _open(stage, made, seeds=seeds, secrets=secrets)
        honest = kept[:-COLLUDERS]
        is_open = _is_sum_of(stage, total, honest)
        aggregate = _as_aggregate(made, total, seeds=seeds, secrets=secrets)
        sent = {name: _answer(stage, name, aggregate) for name in stage.names[:-COLLUDERS]}
        hidden = _hide(stage)
    took = sum(answer == "accepted" for answer in (*sent.values(), *hidden.values()))
    return AttackResult(
        attack="tamper-shrunken-survivors",
        figure=took,
        control=len(honest) if is_open else 0,
        passed=took == 0 and is_open,
        claim="hospitals that take a sum opened by split views one round later, or go on if it is hidden as a skipped "
        f"round: 0; control: honest updates in the sum that the coordinator does open: {len(honest)}",
        details={
            "detected_rounds_later": 1,
            "answers_to_the_sum": sent,
            "answers_to_the_next_unmasking_if_all_are_told_that_the_round_was_skipped": hidden,
            "honest_updates_promised_under_one_view": stage.plan.min_cohort - COLLUDERS,
        },
    )


def _hide(stage: Stage) -> dict[str, str]:
    """Tell all that the round was skipped, and go on honestly; what the honest hospitals say to the next unmasking."""
    stage.aggregates.append(skipped(1, 0))
    made = stage.collect(2)
    # An honest coordinator would leave out those that were shown another set; then too few are left.
    survivors = made.survivors(*stage.names)
    frames = {name: stage.unmask_request(made, name, survivors) for name in stage.names[:-COLLUDERS]}
    return {name: _outcome(stage, name, frame) for name, frame in frames.items()}


def _views(names: tuple[str, ...]) -> dict[str, set[str]]:
    """Whom each honest hospital is told to have dropped out: each of the first five by four others."""
    first = names[:DROPPED]
    views = {name: {first[(index + step) % DROPPED] for step in (1, 2, 3)} for index, name in enumerate(first)}
    return views | {names[5]: set(first[:3]), names[6]: {first[3], first[4], first[0]}}


def _reveals(stage: Stage, made: Attempt) -> Loot:
    loot = Loot()
    for name, gone in _views(stage.names).items():
        survivors = made.survivors(*(other for other in stage.names if other not in gone))
        answer = stage.ask("unmask", name, stage.unmask_request(made, name, survivors))
        position = stage.plan.agreed.position(name)
        for dealer, share in zip(made.opening.hospitals, decode_document(answer, Reveal).shares, strict=True):
            (loot.keys if dealer in gone else loot.seeds).setdefault(dealer, {})[position] = bytes.fromhex(share)
    return loot


def _add_colluders_shares(stage: Stage, made: Attempt, loot: Loot) -> None:
    for name in stage.names[-COLLUDERS:]:
        member, position = stage.sites[name].keys.member, stage.plan.agreed.position(name)
        for one in made.opening.delivered_to(position):
            dealer = one.advert.hospital
            opened = open_share(
                bytes.fromhex(one.shares.box),
                shared=pair_secret(member.box, stage.plan.roster[stage.plan.agreed.position(dealer)].box),
                run=stage.run,
                epoch=stage.plan.agreed.epoch,
                round_number=made.number,
                sender=dealer,
                recipient=name,
            )
            loot.seeds.setdefault(dealer, {})[position] = opened[:SHARE_BYTES]
            loot.keys.setdefault(dealer, {})[position] = opened[SHARE_BYTES:]


def _open(stage: Stage, made: Attempt, *, seeds: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> EncryptedSum:
    """The sum of the uploads whose seeds are known, without its masks."""
    agreed = stage.plan.agreed
    uploads = [one for name in seeds if (one := made.replies[name].upload) is not None]
    words = np.zeros_like(uploads[0].words)
    for upload in uploads:
        add_in_place(words, upload.words, stage.parameters)
    keys = {one.advert.hospital: one.advert.mask_key for one in made.opening.adverts}
    remove_masks(
        words,
        stage.parameters,
        place=MaskPlace(stage.run, stage.plan.digest, agreed.epoch, made.number, made.attempt),
        seeds={agreed.position(name): one for name, one in seeds.items()},
        mask_keys={agreed.position(name): keys[name] for name in seeds},
        dropped={agreed.position(name): one for name, one in secrets.items()},
    )
    return EncryptedSum(stage.parameters, words, tuple(upload.seeds for upload in uploads))


def _is_sum_of(stage: Stage, total: EncryptedSum, honest: tuple[str, ...]) -> bool:
    """Whether what a colluder decrypts is exactly the colluders' and these honest ones' updates, and nothing more."""
    colluder = stage.sites[stage.names[-1]]
    left = colluder.keys.epoch(1).ckks.decrypt(total, colluder.grid)
    for name in (*stage.names[-COLLUDERS:], *honest):
        update = stage.storage(name).load_update(1)
        if update is not None:
            left = left - update
    return not left.any()


def _as_aggregate(
    made: Attempt, total: EncryptedSum, *, seeds: Mapping[str, bytes], secrets: Mapping[str, bytes]
) -> Aggregate:
    """With all that verifies it: nothing in it is wrong but who is in it."""
    body, bodies = encode_sum(total), [bytes(made.replies[name].body) for name in seeds]
    transcript = Transcript(
        adverts=tuple(one.advert for one in made.opening.adverts),
        seeds=tuple(one.hex() for one in seeds.values()),
        mask_secrets=tuple(one.hex() for one in secrets.values()),
        upload_bytes=len(bodies[0]),
    )
    entry = AggregateEntry(
        round=made.number,
        attempt=made.attempt,
        survivors=made.survivors(*seeds),
        sum_bytes=len(body),
        transcript=transcript,
        witnesses=(),
    )
    return Aggregate.held(entry, b"".join([body, *bodies]))


def _answer(stage: Stage, name: str, aggregate: Aggregate) -> str:
    return _outcome(stage, name, stage.request("hello", 0, name, send=(aggregate,)))


def _outcome(stage: Stage, name: str, frame: bytes) -> str:
    try:
        stage.sites[name].hospital.answer(frame)
    except FedwardError as error:
        return error.code
    return "accepted"
