"""Lies about a round: its opening, its survivors, its attempts, and what other hospitals were told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.mask_messages import DeliveredAdvert
from common.messages import SignedManifest
from scripts.attack_forged_sums import add_chosen_values, flip_the_sum
from scripts.attack_forgery import Forge, Forgery, World
from server.aggregate import Aggregate, skipped
from server.masked_round import Opening, Unmasking

_TRANSCRIPT, _SPLIT, _DIVERGED = "TranscriptError", "SplitViewError", "DivergenceError"
_MALFORMED, _REVEALED, _ROUND = "MalformedMessage", "AlreadyRevealed", "WrongRound"


def forge_the_opening(world: World) -> Forgery:
    """The adverts of a round are reordered, too few, of another round, another hospital's, or changed."""
    hospital = world.someone()
    stage, at = world.stage, world.stage.plan.agreed.position(hospital)
    adverts = list(stage.openings[3].delivered_to(at))
    first, second = sorted(world.draw.sample(range(len(adverts)), 2))
    errors: tuple[str, ...] = (_TRANSCRIPT,)
    match world.draw.randrange(7):
        case 0:
            adverts[first], adverts[second] = adverts[second], adverts[first]
        case 1:
            adverts[second] = adverts[first]
        case 2:
            adverts = adverts[: stage.plan.needed - 1]
        case 3:
            adverts = list(stage.openings[2].delivered_to(at))
        case 4:
            adverts, errors = list(stage.openings[3].delivered_to((at + 1) % 5)), (_MALFORMED,)
        case 5:
            one, other = adverts[first], adverts[second]
            adverts[first], errors = one.model_copy(update={"shares": other.shares}), (_MALFORMED,)
        case _:
            adverts[first], errors = _with_other_key(adverts[first]), ("BadSignature",)
    frame = stage.request("train", 3, hospital, send=stage.missing(hospital, 3), adverts=tuple(adverts))
    return Forgery(hospital, frame, frozenset(errors))


def _with_other_key(one: DeliveredAdvert) -> DeliveredAdvert:
    changed = one.advert.model_copy(update={"mask_key": one.advert.commitment})
    return one.model_copy(update={"advert": changed})


def two_aggregates(world: World) -> Forgery:
    """One hospital gets the true sum and takes it, another one a forged sum."""
    honest, deceived = world.two()
    _accepted(world, honest, world.stage.aggregates[1])
    forged = world.draw.choice((add_chosen_values, flip_the_sum))(world, to=deceived)
    return replace(forged, touched=(honest,))


def two_outcomes(world: World) -> Forgery:
    """One hospital is told that the round was skipped and then gets its sum, or the other way round."""
    hospital, outcomes = world.someone(), [world.stage.aggregates[1], skipped(2, 0)]
    world.draw.shuffle(outcomes)
    _accepted(world, hospital, outcomes[0])
    return world.deliver(outcomes[1], _TRANSCRIPT, to=hospital)


def fake_a_skip(world: World) -> Forgery:
    """One hospital is told that the round was skipped, others get its sum: seen when the next one is unmasked."""
    stage, (deceived, other) = world.stage, world.two()
    frame = stage.open_with(stage.openings[3], 3, deceived, send=(skipped(2, 0),))
    reply = stage.admit(frame, deceived, 3, attempt=0, opening=stage.openings[3].digest)
    mixed = tuple(reply.signed if one.manifest.hospital == deceived else one for one in world.survivors())
    asked = deceived
    if world.draw.random() < 0.5:
        world.uploaded.restore(other)
        asked = other
    frame = stage.unmask_request(world.made, asked, mixed)
    return Forgery(asked, frame, frozenset({_DIVERGED}), 1, touched=(deceived, other))


def forge_the_survivors(world: World) -> Forgery:
    """The survivors are too few, twice, in another order, of another round or changed; or of another attempt."""
    stage, survivors = world.stage, list(world.survivors())
    hospital, (first, second) = world.draw.choice(stage.names), sorted(world.draw.sample(range(5), 2))
    errors: tuple[str, ...] = (_TRANSCRIPT,)
    attempt = 0
    match world.draw.randrange(6):
        case 0:
            survivors = survivors[: world.draw.randrange(1, stage.plan.needed)]
        case 1:
            survivors[second] = survivors[first]
        case 2:
            survivors[first], survivors[second] = survivors[second], survivors[first]
        case 3:
            survivors[first] = stage.aggregates[0].entry.survivors[first]
        case 4:
            survivors[first], errors = _with_other_root(survivors[first]), ("BadSignature",)
        case _:
            attempt, errors = world.draw.randint(1, 2), (_ROUND,)
    frame = stage.request("unmask", 3, hospital, attempt=attempt, survivors=tuple(survivors))
    return Forgery(hospital, frame, frozenset(errors))


def _with_other_root(signed: SignedManifest) -> SignedManifest:
    changed = signed.manifest.model_copy(update={"root": signed.manifest.state_tag})
    return signed.model_copy(update={"manifest": changed})


def another_opening_in_another_attempt(world: World) -> Forgery:
    """The round is asked for again, opened without one hospital."""
    stage, hospital, gone = world.stage, world.draw.choice(world.stage.names), world.draw.randrange(5)
    adverts = stage.openings[3].adverts
    opening = Opening(adverts[:gone] + adverts[gone + 1 :])
    frame = stage.open_with(opening, 3, hospital, attempt=world.draw.randint(0, 2))
    return Forgery(hospital, frame, frozenset({_SPLIT}))


def two_survivor_sets(world: World) -> Forgery:
    """One hospital gives shares for a sum with itself, the others for one without it; the sum is opened and delivered.

    The coordinator reaches a sum that a hospital believes to be in and is not. It is seen one round later.
    """
    stage, deceived = world.stage, world.draw.choice(world.stage.names)
    others = [name for name in stage.names if name != deceived]
    stage.sites[deceived].hospital.answer(stage.unmask_request(world.made, deceived, world.survivors()))
    total = stage.new_sum()
    for name in others:
        reply = world.made.replies[name]
        if reply.upload is not None:
            total.add(reply.signed, reply.upload)
    unmasking = Unmasking(stage.plan, stage.run, world.made.opening, world.survivors(*others))
    for name in others:
        unmasking.take(stage.sites[name].hospital.answer(_ask(world, name, unmasking.survivors)), name)
    aggregate, transcript = total.unmasked(unmasking)
    entry = aggregate.entry.model_copy(update={"transcript": transcript})
    body = b"".join([aggregate.body, *(world.made.replies[name].body for name in others)])
    frame = stage.request("train", 4, deceived, send=(Aggregate.held(entry, body),))
    return Forgery(deceived, frame, frozenset({_SPLIT}), 1, touched=stage.names)


def _ask(world: World, name: str, survivors: Sequence[SignedManifest]) -> bytes:
    return world.stage.unmask_request(world.made, name, survivors)


def other_survivors_after_a_reveal(world: World) -> Forgery:
    """Shares are asked for again, for one hospital less: both sums together would give it away."""
    hospital, gone = world.draw.choice(world.stage.names), world.draw.choice(world.stage.names)
    kept = [name for name in world.stage.names if name != gone]
    return Forgery(hospital, _ask(world, hospital, world.survivors(*kept)), frozenset({_REVEALED}))


def another_attempt_after_a_reveal(world: World) -> Forgery:
    """The round is asked for again after its masks were revealed, or shares for an attempt that never was."""
    stage, hospital, attempt = world.stage, world.draw.choice(world.stage.names), world.draw.randint(1, 2)
    if world.draw.random() < 0.5:
        frame = stage.open_with(stage.openings[3], 3, hospital, attempt=attempt)
        return Forgery(hospital, frame, frozenset({_REVEALED}))
    frame = stage.request("unmask", 3, hospital, attempt=attempt, survivors=world.survivors())
    return Forgery(hospital, frame, frozenset({_ROUND, _REVEALED}))


def an_old_round_after_a_reveal(world: World) -> Forgery:
    """Shares of a round that was applied, or an upload for it, are asked for once more."""
    stage, hospital = world.stage, world.draw.choice(world.stage.names)
    if world.draw.random() < 0.5:
        frame = stage.open_with(stage.openings[2], 2, hospital)
    else:
        frame = stage.request("unmask", 2, hospital, survivors=stage.aggregates[1].entry.survivors)
    return Forgery(hospital, frame, frozenset({_ROUND}))


def two_openings(world: World) -> Forgery:
    """Hospitals that were shown different openings are asked for shares: of all, or of those of one view."""
    stage, hospital = world.stage, world.draw.choice(world.stage.names)
    chosen = world.draw.sample(stage.names, world.draw.choice((4, 5)))
    survivors = [one for one in world.split if one.manifest.hospital in chosen]
    return Forgery(hospital, _ask(world, hospital, survivors), frozenset({_SPLIT}))


def show_two_openings(world: World) -> None:
    """Play round 3 with another opening for two hospitals: one without a hospital that is in the others' view."""
    stage, adverts = world.stage, world.stage.openings[3].adverts
    gone, *deceived = world.draw.sample(stage.names, 3)
    without = Opening(tuple(one for one in adverts if one.advert.hospital != gone))
    world.split = []
    for name in stage.names:
        opening = without if name in deceived else stage.openings[3]
        frame = stage.open_with(opening, 3, name, send=stage.missing(name, 3))
        world.split.append(stage.admit(frame, name, 3, attempt=0, opening=opening.digest).signed)


def _accepted(world: World, hospital: str, aggregate: Aggregate) -> None:
    """A hospital takes an outcome that nothing shows to be a lie yet."""
    world.stage.sites[hospital].hospital.answer(world.stage.request("hello", 0, hospital, send=(aggregate,)))


def _named(*forges: Forge) -> dict[str, Forge]:
    return {one.__name__.replace("_", "-"): one for one in forges}


WHILE_DELIVERING = _named(forge_the_opening, two_aggregates, two_outcomes, fake_a_skip)
AFTER_UPLOADS = _named(forge_the_survivors, another_opening_in_another_attempt, two_survivor_sets)
AFTER_REVEAL = _named(other_survivors_after_a_reveal, another_attempt_after_a_reveal, an_old_round_after_a_reveal)
AFTER_A_SPLIT = _named(two_openings)
