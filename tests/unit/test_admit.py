"""What reaches the sum is exactly what the named hospital signed for the open round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.errors import BadSignature, MalformedMessage, ReplayedMessage, WrongPlan, WrongRound
from common.identity import Identity
from common.messages import encode_reply
from common.packing import pack_into
from common.transcript import merkle_root
from server.admit import admit
from tests.support.replies import CHUNKS, PARAMETERS, Hospitals, body_of, random_words

BODY = body_of(random_words(0))


@pytest.fixture
def hospitals() -> Hospitals:
    """A roster with fresh keys."""
    return Hospitals()


def test_an_honest_upload_is_admitted_with_its_words(hospitals: Hospitals) -> None:
    """The control of every refusal below."""
    admitted = admit(hospitals.frame(BODY), "hospital-1", expected=hospitals.open(), seen={})
    assert admitted is not None
    assert admitted.upload is not None
    np.testing.assert_array_equal(admitted.upload.words, random_words(0))


def test_an_observer_is_admitted_without_an_upload(hospitals: Hospitals) -> None:
    """A hospital without budget still says what it holds."""
    frame = hospitals.frame(b"", reason="BudgetExceeded")
    admitted = admit(frame, "hospital-1", expected=hospitals.open(), seen={})
    assert admitted is not None
    assert admitted.upload is None
    assert admitted.signed.manifest.reason == "BudgetExceeded"


@pytest.mark.parametrize("length", [-1, 1, -len(BODY) + 1, 64 * CHUNKS, -len(BODY) // 3])
def test_a_body_of_another_length_is_refused(hospitals: Hospitals, length: int) -> None:
    """Also where the hospital itself signed the wrong bytes: nothing is allocated by its claim."""
    body = BODY[:length] if length < 0 else BODY + bytes(length)
    with pytest.raises(MalformedMessage):
        admit(hospitals.frame(body, root=merkle_root(body, 1)), "hospital-1", expected=hospitals.open(), seen={})


def test_a_truncated_frame_is_refused(hospitals: Hospitals) -> None:
    """At every boundary of the frame."""
    frame = hospitals.frame(BODY)
    for size in (0, 8, 11, 12, 100, 700, len(frame) - 1):
        with pytest.raises((MalformedMessage, BadSignature)):
            admit(frame[:size], "hospital-1", expected=hospitals.open(), seen={})


def test_a_claim_of_many_chunks_allocates_nothing(hospitals: Hospitals) -> None:
    """The plan says how many, never the sender."""
    with pytest.raises(MalformedMessage, match="exactly 3"):
        admit(hospitals.frame(BODY, chunks=2**39), "hospital-1", expected=hospitals.open(), seen={})


def test_a_word_outside_the_ring_is_refused(hospitals: Hospitals) -> None:
    """It would make the sum ambiguous."""
    words = random_words(1)
    words[1, 5] = PARAMETERS.modulus
    records = np.zeros((CHUNKS, PARAMETERS.chunk_bytes + 64), dtype=np.uint8)
    pack_into(records, words, PARAMETERS)
    with pytest.raises(MalformedMessage, match="outside the ring"):
        admit(hospitals.frame(records.tobytes()), "hospital-1", expected=hospitals.open(), seen={})
    # Control: the largest residue passes.
    words[1, 5] = PARAMETERS.modulus - 1
    records[:] = 0
    pack_into(records, words, PARAMETERS)
    assert admit(hospitals.frame(records.tobytes()), "hospital-1", expected=hospitals.open(), seen={})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"round": 1}, WrongRound),
        ({"round": 3}, WrongRound),
        ({"attempt": 1}, WrongRound),
        ({"kind": "eval"}, WrongRound),
        ({"opening": "f" * 64}, WrongRound),
        ({"opening": ""}, WrongRound),
        ({"run": "f" * 32}, WrongPlan),
        ({"plan": "f" * 64}, WrongPlan),
        ({"epoch": 2}, WrongPlan),
        ({"parameters": "f" * 64}, WrongPlan),
        ({"root": "f" * 64}, MalformedMessage),
        ({"chunks": CHUNKS - 1}, MalformedMessage),
    ],
)
def test_a_reply_to_something_else_is_refused(
    hospitals: Hospitals, changes: dict[str, Any], error: type[Exception]
) -> None:
    """Old uploads, those of other runs, and those under other adverts' masks cannot be brought."""
    with pytest.raises(error):
        admit(hospitals.frame(BODY, **changes), "hospital-1", expected=hospitals.open(), seen={})


def test_another_hospitals_signature_is_refused(hospitals: Hospitals) -> None:
    """A hospital cannot speak in another's name."""
    with pytest.raises(BadSignature):
        admit(hospitals.frame(BODY, signer="hospital-2"), "hospital-1", expected=hospitals.open(), seen={})


def test_a_flipped_signature_is_refused(hospitals: Hospitals) -> None:
    """One bit is enough."""
    frame = bytearray(hospitals.frame(BODY))
    frame[-len(BODY) - 1] ^= 1
    with pytest.raises(BadSignature):
        admit(bytes(frame), "hospital-1", expected=hospitals.open(), seen={})


def test_a_flipped_body_bit_is_refused(hospitals: Hospitals) -> None:
    """The signature covers the body through its Merkle root."""
    frame = bytearray(hospitals.frame(BODY))
    frame[-1] ^= 1
    with pytest.raises(MalformedMessage, match="not the one that it signed"):
        admit(bytes(frame), "hospital-1", expected=hospitals.open(), seen={})


def test_a_stranger_is_refused(hospitals: Hospitals) -> None:
    """A valid signature of nobody in the roster is worth nothing."""
    stranger = Identity.generate()
    frame = encode_reply(hospitals.manifest(BODY, hospital="hospital-9"), BODY, stranger.sign)
    with pytest.raises(BadSignature, match="not in the roster"):
        admit(frame, "hospital-9", expected=hospitals.open(), seen={})


def test_a_reply_through_another_hospitals_node_is_refused(hospitals: Hospitals) -> None:
    """A hospital's gateway cannot pass on what it got from another hospital."""
    with pytest.raises(BadSignature, match="brought a reply"):
        admit(hospitals.frame(BODY), "hospital-2", expected=hospitals.open(), seen={})


def test_a_second_different_upload_is_a_replay_and_the_same_bytes_are_ignored(hospitals: Hospitals) -> None:
    """A retry of the transport is harmless, a second upload is not."""
    expected, first = hospitals.open(), hospitals.frame(BODY)
    admitted = admit(first, "hospital-1", expected=expected, seen={})
    assert admitted is not None
    seen = {"hospital-1": admitted.frame_digest}
    assert admit(first, "hospital-1", expected=expected, seen=seen) is None
    with pytest.raises(ReplayedMessage):
        admit(hospitals.frame(body_of(random_words(5))), "hospital-1", expected=expected, seen=seen)


def test_an_observer_with_a_body_is_refused(hospitals: Hospitals) -> None:
    """An observer's bytes are never looked at."""
    for changes in ({}, {"chunks": 0}, {"root": "", "chunks": 0}):
        frame = hospitals.frame(BODY, role="observe", **changes)
        with pytest.raises(MalformedMessage, match="observes"):
            admit(frame, "hospital-1", expected=hospitals.open(), seen={})
    with pytest.raises(MalformedMessage, match="observes"):
        admit(hospitals.frame(b"", root="5" * 64), "hospital-1", expected=hospitals.open(), seen={})


@pytest.mark.parametrize("kind", ["hello", "finish"])
def test_an_upload_where_none_is_asked_for_is_refused(hospitals: Hospitals, kind: str) -> None:
    """Readiness and results carry no ciphertext."""
    with pytest.raises(MalformedMessage, match="takes no upload"):
        admit(hospitals.frame(BODY, kind=kind), "hospital-1", expected=hospitals.open(kind=kind), seen={})
