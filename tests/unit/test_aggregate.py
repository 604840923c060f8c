"""The running sum is the sum modulo q of those who hold one model, and the round's record names them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from common.ckks import decode_sum
from common.messages import Applied
from common.transcript import EMPTY_CHAIN
from server.admit import admit
from server.aggregate import RunningSum
from server.exchange import Collection, NodeError, explain
from tests.support.replies import CHUNKS, NAMES, PARAMETERS, Hospitals, body_of, random_words


def take_all(collection: Collection, frames: dict[str, bytes]) -> None:
    """Answers in this order, a second apart."""
    for seconds, (name, frame) in enumerate(frames.items()):
        collection.take(name, frame, seconds=float(seconds))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_sum_does_not_depend_on_who_answers_first(order: tuple[int, ...]) -> None:
    """Hospitals recompute chains over the body, so its bytes must not depend on luck."""
    hospitals, total = Hospitals(), RunningSum(PARAMETERS)
    for index in order:
        frame = hospitals.frame(body_of(random_words(index), index), hospital=NAMES[index])
        admitted = admit(frame, NAMES[index], expected=hospitals.open(), seen={})
        assert admitted is not None
        assert admitted.upload is not None
        total.add(admitted.signed, admitted.upload)
    aggregate = total.result(NAMES, round_number=2, attempt=0)
    decoded = decode_sum(aggregate.body, CHUNKS, 4, PARAMETERS)
    words = sum(random_words(index).astype(object) for index in range(4)) % PARAMETERS.modulus
    np.testing.assert_array_equal(decoded.words.astype(object), words)
    assert [s.manifest.hospital for s in aggregate.entry.survivors] == list(NAMES)
    assert [seeds[0] for seeds in decoded.seeds] == [0, 1, 2, 3]
    assert aggregate.entry.body_bytes == len(aggregate.body)


def test_a_hospital_with_another_model_is_left_out_and_named() -> None:
    """Adding updates of two models would spoil both."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), dict.fromkeys(NAMES, 100))
    frames = {name: hospitals.frame(body_of(random_words(k)), hospital=name) for k, name in enumerate(NAMES)}
    frames["hospital-2"] = hospitals.frame(body_of(random_words(1)), hospital="hospital-2", state_tag="9" * 64)
    take_all(collection, frames)
    assert collection.total.largest == {"hospital-1", "hospital-3", "hospital-4"}
    outcomes = collection.outcomes(5.0)
    assert [o.outcome for o in outcomes] == ["contributed", "diverged", "contributed", "contributed"]
    assert explain(outcomes, collection.total.largest) == "hospital-2 diverged"
    decoded = decode_sum(collection.total.result(NAMES, round_number=2, attempt=0).body, CHUNKS, 3, PARAMETERS)
    expected = sum(random_words(k).astype(object) for k in (0, 2, 3)) % PARAMETERS.modulus
    np.testing.assert_array_equal(decoded.words.astype(object), expected)


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


def test_the_same_reply_twice_counts_once() -> None:
    """Adding it twice would double a hospital's weight."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), dict.fromkeys(NAMES, 10))
    frame = hospitals.frame(body_of(random_words(0)), hospital="hospital-1")
    take_all(collection, {"hospital-1": frame})
    collection.take("hospital-1", frame, seconds=3.0)
    decoded = decode_sum(collection.total.result(NAMES, round_number=2, attempt=0).body, CHUNKS, 1, PARAMETERS)
    np.testing.assert_array_equal(decoded.words, random_words(0))


def test_a_second_different_reply_leaves_the_sum_alone() -> None:
    """The first one counts."""
    hospitals = Hospitals()
    collection = Collection(hospitals.open(), dict.fromkeys(NAMES, 10))
    take_all(collection, {"hospital-1": hospitals.frame(body_of(random_words(0)), hospital="hospital-1")})
    other = hospitals.frame(body_of(random_words(1)), hospital="hospital-1")
    collection.take("hospital-1", other, seconds=3.0)
    decoded = decode_sum(collection.total.result(NAMES, round_number=2, attempt=0).body, CHUNKS, 1, PARAMETERS)
    np.testing.assert_array_equal(decoded.words, random_words(0))
