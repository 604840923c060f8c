"""The running sum is the sum modulo q of those who hold one model, and the round's record names them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.ckks import decode_sum
from common.messages import Applied
from common.transcript import EMPTY_CHAIN
from server.aggregate import Aggregate, skipped
from server.exchange import Collection, NodeError, explain
from server.masked_round import Opening
from tests.support.masked_sites import MaskedSites, after_skips
from tests.support.replies import CHUNKS, NAMES, PARAMETERS, Hospitals, body_of, random_words


def take_all(collection: Collection, frames: dict[str, bytes]) -> None:
    """Answers in this order, a second apart."""
    for seconds, (name, frame) in enumerate(frames.items()):
        collection.take(name, frame, seconds=float(seconds))


@pytest.fixture
def sites(tmp_path: Path) -> MaskedSites:
    """Hospitals that mask their words."""
    return MaskedSites(tmp_path)


def words_of(indices: Iterable[int]) -> dict[str, NDArray[np.uint64]]:
    """Each hospital's own words, by name."""
    return {NAMES[index]: random_words(index) for index in indices}


def plain_sum(indices: Iterable[int]) -> NDArray[np.object_]:
    """Of those words, in Python's integers."""
    words = np.stack([random_words(index).astype(object) for index in indices])
    return np.asarray(words.sum(axis=0) % PARAMETERS.modulus)


def collection_of(sites: MaskedSites, opening: Opening) -> Collection:
    """The coordinator's open round."""
    return Collection(sites.expected(opening), dict.fromkeys(NAMES, 100))


def unmasked(sites: MaskedSites, opening: Opening, collection: Collection) -> Aggregate:
    """The sum, once its hospitals have given their shares."""
    return collection.total.unmasked(sites.unmasking(opening, collection.total))[0]


def test_the_sum_does_not_depend_on_who_answers_first(sites: MaskedSites) -> None:
    """Hospitals recompute chains over the body, so its bytes must not depend on luck."""
    opening = sites.opening(2)
    frames = {name: sites.upload(name, opening, own) for name, own in words_of(range(4)).items()}
    bodies = set()
    for order in list(itertools.permutations(NAMES))[::5]:
        collection = collection_of(sites, opening)
        take_all(collection, {name: frames[name] for name in order})
        aggregate = unmasked(sites, opening, collection)
        decoded = decode_sum(aggregate.body, CHUNKS, 4, PARAMETERS)
        np.testing.assert_array_equal(decoded.words.astype(object), plain_sum(range(4)))
        assert [s.manifest.hospital for s in aggregate.entry.survivors] == list(NAMES)
        assert [seeds[0] for seeds in decoded.seeds] == [0, 1, 2, 3]
        assert aggregate.entry.body_bytes == len(aggregate.body)
        assert (aggregate.entry.round, aggregate.entry.attempt) == (2, 0)
        bodies.add(aggregate.body)
    assert len(bodies) == 1


def test_a_hospital_with_another_model_is_left_out_and_named(sites: MaskedSites) -> None:
    """Adding updates of two models would spoil both; its masks are taken off like those of one that fell silent."""
    opening = sites.opening(2)
    collection, words = collection_of(sites, opening), words_of(range(4))
    frames = {name: sites.upload(name, opening, own) for name, own in words.items() if name != "hospital-2"}
    frames["hospital-2"] = sites.upload("hospital-2", opening, words["hospital-2"], tag="9" * 64)
    take_all(collection, {name: frames[name] for name in NAMES})
    assert collection.total.largest == {"hospital-1", "hospital-3", "hospital-4"}
    outcomes = collection.outcomes(5.0)
    assert [o.outcome for o in outcomes] == ["contributed", "diverged", "contributed", "contributed"]
    assert explain(outcomes, collection.total.largest) == "hospital-2 diverged"
    decoded = decode_sum(unmasked(sites, opening, collection).body, CHUNKS, 3, PARAMETERS)
    np.testing.assert_array_equal(decoded.words.astype(object), plain_sum((0, 2, 3)))


def test_a_skipped_round_has_nobody_and_no_bytes() -> None:
    """Hospitals tell it by that from one with a sum."""
    aggregate = skipped(3, 1)
    assert (aggregate.entry.round, aggregate.entry.attempt) == (3, 1)
    assert (aggregate.entry.survivors, aggregate.entry.body_bytes, aggregate.body) == ((), 0, b"")


def test_one_that_names_other_survivors_of_the_round_before_is_left_out() -> None:
    """With it among the survivors all others would refuse to unmask; one that names none is no liar."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), dict.fromkeys(NAMES, 100))
    told = {"hospital-1": "a" * 64, "hospital-2": "a" * 64, "hospital-3": "b" * 64, "hospital-4": ""}
    take_all(
        collection,
        {
            name: hospitals.frame(body_of(random_words(index)), hospital=name, revealed=digest)
            for index, (name, digest) in enumerate(told.items())
        },
    )
    assert collection.total.largest == {"hospital-1", "hospital-2", "hospital-4"}
    assert collection.total.outside == {"hospital-3"}


def test_equal_tags_over_other_histories_are_not_added_up() -> None:
    """The tag alone does not make a group."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), dict.fromkeys(NAMES, 100))
    behind = Applied(round=0, root="", chain=EMPTY_CHAIN)
    take_all(
        collection,
        {
            "hospital-1": hospitals.frame(body_of(random_words(0)), hospital="hospital-1"),
            "hospital-2": hospitals.frame(body_of(random_words(1)), hospital="hospital-2", applied=behind),
        },
    )
    assert collection.total.largest == {"hospital-1"}


def test_every_hospital_has_one_outcome_with_its_bytes_and_code() -> None:
    """The operator sees who did what."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), {"hospital-1": 10, "hospital-2": 20, "hospital-3": 30})
    upload = hospitals.frame(body_of(random_words(0)), hospital="hospital-1")
    take_all(collection, {"hospital-1": upload})
    collection.take("hospital-2", NodeError(102, "site:WrongPlan"), seconds=1.5)
    collection.take("hospital-3", upload, seconds=2.5)
    seen = {o.hospital: (o.outcome, o.code, o.up_bytes, o.down_bytes) for o in collection.outcomes(9.0)}
    assert seen == {
        "hospital-1": ("contributed", "", len(upload), 10),
        "hospital-2": ("failed", "WrongPlan", 0, 20),
        "hospital-3": ("failed", "BadSignature", len(upload), 30),
        "hospital-4": ("absent", "", 0, 0),
    }


def test_who_does_not_answer_is_late() -> None:
    """And who was not connected is absent."""
    hospitals = Hospitals()
    outcomes = Collection(hospitals.open(), dict.fromkeys(NAMES[:2], 10)).outcomes(7.0)
    assert [o.outcome for o in outcomes] == ["late", "late", "absent", "absent"]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NodeError(102, "site:BudgetExceeded"), "BudgetExceeded"),
        (NodeError(102, "site:" + "x" * 41), "UnnamedSiteError"),
        (NodeError(102, "patient 17 of /data/records"), "UnnamedSiteError"),
        (NodeError(5, "whatever"), "NodeUnavailable"),
        (NodeError(8, ""), "ClientAppCrashed"),
        (NodeError(77, "text"), "FlowerError77"),
    ],
)
def test_an_errors_free_text_is_never_kept(error: NodeError, name: str) -> None:
    """A gateway may put anything there; the store and the operator's screen take codes only."""
    assert error.name == name


def test_the_same_reply_twice_counts_once(sites: MaskedSites) -> None:
    """Adding it twice would double a hospital's weight."""
    opening = sites.opening(2)
    collection = collection_of(sites, opening)
    frames = {name: sites.upload(name, opening, own) for name, own in words_of(range(3)).items()}
    take_all(collection, frames)
    collection.take("hospital-1", frames["hospital-1"], seconds=3.0)
    decoded = decode_sum(unmasked(sites, opening, collection).body, CHUNKS, 3, PARAMETERS)
    np.testing.assert_array_equal(decoded.words.astype(object), plain_sum(range(3)))


def test_a_second_different_reply_leaves_the_sum_alone(sites: MaskedSites) -> None:
    """The first one counts."""
    opening = sites.opening(2)
    collection = collection_of(sites, opening)
    other = sites.upload("hospital-1", opening, random_words(7))
    take_all(collection, {name: sites.upload(name, opening, own) for name, own in words_of(range(3)).items()})
    assert collection.take("hospital-1", other, seconds=3.0).code == "ReplayedMessage"
    decoded = decode_sum(unmasked(sites, opening, collection).body, CHUNKS, 3, PARAMETERS)
    np.testing.assert_array_equal(decoded.words.astype(object), plain_sum(range(3)))
    # Control: as the first reply it would have been another sum.
    another = collection_of(sites, opening)
    take_all(another, {"hospital-1": other})
    assert another.outcomes(1.0)[0].outcome == "contributed"


def test_of_two_equal_groups_the_one_that_has_applied_more_is_summed(sites: MaskedSites) -> None:
    """Whoever is behind can catch up, and nobody can go back."""
    opening = sites.opening(2)
    collection = collection_of(sites, opening)
    for index, name in enumerate(NAMES):
        applied = after_skips(1 if name in ("hospital-2", "hospital-4") else 0)
        collection.take(name, sites.upload(name, opening, random_words(index), applied=applied), seconds=1.0)
    assert collection.total.largest == {"hospital-2", "hospital-4"}
    assert [signed.manifest.hospital for signed in collection.total.survivors(NAMES)] == ["hospital-2", "hospital-4"]
    assert collection.total.outside == {"hospital-1", "hospital-3"}
