"""Frames between coordinator and hospitals: what was signed comes back, and anything else is a named refusal."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.canonical import canonical_bytes
from common.errors import BadSignature, MalformedMessage, PeerError
from common.freshness_messages import FreshnessAnswer, OpenNonce
from common.identity import Identity
from common.mask_messages import BOX_BYTES, Advert, DeliveredAdvert, SealedShares
from common.messages import (
    MAX_MANIFEST_BYTES,
    REPLY_MAGIC,
    AggregateEntry,
    Applied,
    Kind,
    Manifest,
    Request,
    SignedManifest,
    Transcript,
    decode_reply,
    encode_reply,
)
from common.request_frames import decode_request, encode_request
from common.wire import header_bytes

COORDINATOR, HOSPITAL, STRANGER = Identity.generate(), Identity.generate(), Identity.generate()
ROSTER = {"hospital-1": HOSPITAL.public_hex}
PREFIX = struct.Struct(">8sI")

counters = st.integers(0, 2**40 - 1)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["hello", "train", "eval", "unmask", "finish"])
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


def hexes(digits: int) -> st.SearchStrategy[str]:
    """That many hex digits."""
    return st.binary(min_size=digits // 2, max_size=digits // 2).map(bytes.hex)


applied = st.builds(Applied, round=counters, root=st.one_of(st.just(""), hexes(64)), chain=hexes(64))
manifests = st.builds(
    Manifest,
    kind=kinds,
    run=hexes(32),
    plan=hexes(64),
    epoch=counters,
    round=counters,
    attempt=counters,
    hospital=st.just("hospital-1"),
    role=st.sampled_from(["contribute", "observe"]),
    reason=st.from_regex(r"[A-Za-z]{0,40}", fullmatch=True),
    parameters=hexes(64),
    opening=st.one_of(st.just(""), hexes(64)),
    revealed=st.one_of(st.just(""), hexes(64)),
    state_tag=hexes(64),
    applied=applied,
    ledger_sequence=counters,
    ledger=hexes(64),
    ledger_head=hexes(64),
    nonce=st.one_of(st.just(""), hexes(64)),
    chunks=counters,
    root=st.one_of(st.just(""), hexes(64)),
)
signed_manifests = st.builds(SignedManifest, manifest=manifests, signature=hexes(128))
adverts = st.builds(
    Advert,
    run=hexes(32),
    plan=hexes(64),
    epoch=counters,
    round=counters,
    hospital=names,
    mask_key=hexes(64),
    commitment=hexes(64),
    shares_root=hexes(64),
    signature=hexes(128),
)
delivered = st.builds(
    DeliveredAdvert,
    advert=adverts,
    shares=st.builds(SealedShares, seed=hexes(64), key=hexes(64), box=hexes(2 * BOX_BYTES)),
    path=st.lists(hexes(64), max_size=2).map(tuple),
)
transcripts = st.builds(
    Transcript,
    adverts=st.lists(adverts, min_size=1, max_size=2).map(tuple),
    seeds=st.lists(hexes(64), max_size=2).map(tuple),
    mask_secrets=st.lists(hexes(64), max_size=2).map(tuple),
    upload_bytes=counters,
)
entries = st.builds(
    AggregateEntry,
    round=counters,
    attempt=counters,
    survivors=st.lists(signed_manifests, max_size=3).map(tuple),
    sum_bytes=counters,
    transcript=st.none() | transcripts,
    witnesses=st.lists(signed_manifests, max_size=1).map(tuple),
)


nonces = st.builds(OpenNonce, hospital=names, nonce=hexes(64), ledger=hexes(64))
answers = st.builds(
    FreshnessAnswer,
    run=hexes(32),
    plan=hexes(64),
    epoch=counters,
    nonce=hexes(64),
    asker=names,
    ledger=hexes(64),
    hospital=names,
    seen=st.lists(st.binary(min_size=1, max_size=50).map(bytes.hex), max_size=2).map(tuple),
    signature=hexes(128),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, bytes]:
    """A request and its body."""
    body = draw(st.binary(max_size=200))
    request = Request(
        kind=draw(kinds),
        run=draw(hexes(32)),
        plan=draw(hexes(64)),
        epoch=draw(counters),
        round=draw(counters),
        attempt=draw(counters),
        hospital=draw(names),
        aggregates=tuple(draw(st.lists(entries, max_size=2))),
        adverts=tuple(draw(st.lists(delivered, max_size=2))),
        survivors=tuple(draw(st.lists(signed_manifests, max_size=2))),
        nonces=tuple(draw(st.lists(nonces, max_size=2))),
        answers=tuple(draw(st.lists(answers, max_size=2))),
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
    return request, body


@given(requests())
def test_a_request_comes_back_as_it_was_signed(message: tuple[Request, bytes]) -> None:
    """Header, body and signature; and its bytes are one for each value."""
    request, body = message
    frame = encode_request(request, body, COORDINATOR.sign)
    signed = decode_request(frame, COORDINATOR.public_hex)
    assert (signed.request, signed.body) == (request, body)
    assert encode_request(signed.request, signed.body, COORDINATOR.sign) == frame


@given(manifests, st.binary(max_size=200))
def test_a_reply_comes_back_as_it_was_signed(manifest: Manifest, body: bytes) -> None:
    """The body is whatever follows: the coordinator compares it with the signed root."""
    frame = encode_reply(manifest, body, HOSPITAL.sign)
    reply = decode_reply(frame, ROSTER)
    assert (reply.manifest, reply.body) == (manifest, body)
    assert encode_reply(reply.manifest, bytes(reply.body), HOSPITAL.sign) == frame


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 3)), max_size=5), st.integers(-3, 3))
def test_bodies_are_cut_only_where_the_sizes_add_up(claims: list[tuple[int, int, int]], excess: int) -> None:
    """A claim of more bytes than came allocates nothing; with a transcript one upload per survivor follows the sum."""
    claimed = tuple(an_entry(total, upload, survivors) for total, upload, survivors in claims)
    sizes = [total + upload * survivors for total, upload, survivors in claims]
    body = bytes(max(0, sum(sizes) + excess))
    frame = a_request(body, aggregates=claimed)
    signed = decode_request(frame, COORDINATOR.public_hex)
    if len(body) == sum(sizes):
        assert [len(part) for part in signed.aggregate_bodies()] == sizes
    else:
        with pytest.raises(MalformedMessage, match="its entries say"):
            signed.aggregate_bodies()


def an_entry(sum_bytes: int, upload_bytes: int, survivors: int) -> AggregateEntry:
    """A round with a transcript, if its uploads have a size."""
    manifest = SignedManifest(manifest=a_manifest(), signature="0" * 128)
    transcript = Transcript(adverts=(an_advert(),), seeds=(), mask_secrets=(), upload_bytes=upload_bytes)
    return AggregateEntry(
        round=1,
        attempt=0,
        survivors=(manifest,) * survivors,
        sum_bytes=sum_bytes,
        transcript=transcript if upload_bytes else None,
        witnesses=(),
    )


def an_advert() -> Advert:
    """An advert that nobody checks here."""
    digest = "8" * 64
    return Advert(
        run="0" * 32,
        plan="1" * 64,
        epoch=1,
        round=2,
        hospital="hospital-1",
        mask_key=digest,
        commitment=digest,
        shares_root=digest,
    )


def a_manifest(**changes: Any) -> Manifest:  # noqa: ANN401 -- any field
    """What hospital-1 signs."""
    fields: dict[str, Any] = {
        "kind": "train",
        "run": "0" * 32,
        "plan": "1" * 64,
        "epoch": 1,
        "round": 2,
        "attempt": 0,
        "hospital": "hospital-1",
        "role": "contribute",
        "reason": "",
        "parameters": "2" * 64,
        "opening": "9" * 64,
        "revealed": "8" * 64,
        "state_tag": "3" * 64,
        "applied": Applied(round=1, root="4" * 64, chain="5" * 64),
        "ledger_sequence": 1,
        "ledger_head": "6" * 64,
        "ledger": "8" * 64,
        "nonce": "",
        "chunks": 1,
        "root": "7" * 64,
    }
    return Manifest(**fields | changes)


def a_request(body: bytes, *, signer: Identity = COORDINATOR, **changes: Any) -> bytes:  # noqa: ANN401 -- any field
    """A request to hospital-1."""
    fields: dict[str, Any] = {
        "kind": "train",
        "run": "0" * 32,
        "plan": "1" * 64,
        "epoch": 1,
        "round": 2,
        "attempt": 0,
        "hospital": "hospital-1",
        "aggregates": (),
        "adverts": (),
        "survivors": (),
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    return encode_request(Request(**fields | changes), body, signer.sign)


Decode = Callable[[bytes], object]


def open_request(frame: bytes) -> object:
    """As a site does."""
    return decode_request(frame, COORDINATOR.public_hex)


def open_reply(frame: bytes) -> object:
    """As the coordinator does."""
    return decode_reply(frame, ROSTER)


REQUEST, REPLY = a_request(b"body of the aggregates"), encode_reply(a_manifest(), b"", HOSPITAL.sign)


@pytest.mark.parametrize(("frame", "decode"), [(REQUEST, open_request), (REPLY, open_reply)])
def test_any_flipped_bit_is_refused(frame: bytes, decode: Decode) -> None:
    """Every byte of the frame, two bits of each; unchanged it is taken."""
    assert decode(frame)
    for position in range(len(frame)):
        for bit in (1, 64):
            flipped = bytearray(frame)
            flipped[position] ^= bit
            with pytest.raises(PeerError):
                decode(bytes(flipped))


@pytest.mark.parametrize(("frame", "decode"), [(REQUEST, open_request), (REPLY, open_reply)])
def test_any_truncation_is_refused(frame: bytes, decode: Decode) -> None:
    """At every length."""
    for size in range(len(frame)):
        with pytest.raises(PeerError):
            decode(frame[:size])


def test_an_extended_request_is_refused() -> None:
    """A reply's body is compared with its root by `server.admit`, which has its own tests."""
    for tail in (b"\0", b"x" * 64, REQUEST):
        with pytest.raises(MalformedMessage):
            open_request(REQUEST + tail)


def test_a_body_of_another_message_is_refused() -> None:
    """The digest is in the signed header."""
    other = a_request(b"body of the other ones")
    assert len(other) == len(REQUEST)
    with pytest.raises(MalformedMessage, match="not the one that was signed"):
        open_request(REQUEST[:-22] + other[-22:])


def test_another_key_is_refused() -> None:
    """A stranger's, a hospital's in the coordinator's place, another hospital's."""
    for signer in (STRANGER, HOSPITAL):
        with pytest.raises(BadSignature):
            open_request(a_request(b"", signer=signer))
    with pytest.raises(BadSignature):
        open_reply(encode_reply(a_manifest(), b"", STRANGER.sign))
    with pytest.raises(BadSignature, match="not in the roster"):
        open_reply(encode_reply(a_manifest(hospital="hospital-2"), b"", HOSPITAL.sign))


def test_a_signature_has_one_purpose() -> None:
    """A reply's signature does not sign a request with the same header bytes, nor the other way round."""
    header, signature = header_bytes(a_manifest()), COORDINATOR.sign(b"anything")
    assert open_reply(frame_of(header, HOSPITAL))
    as_request = PREFIX.pack(b"FWREQ/1\n", len(header)) + frame_of(header, COORDINATOR)[PREFIX.size :]
    with pytest.raises(BadSignature):
        decode_request(as_request, COORDINATOR.public_hex)
    with pytest.raises(BadSignature):
        decode_request(PREFIX.pack(b"FWREQ/1\n", len(header)) + header + signature, COORDINATOR.public_hex)


def frame_of(header: bytes, signer: Identity, *, magic: bytes = REPLY_MAGIC) -> bytes:
    """A frame around any header, signed as the protocol says."""
    signature = signer.sign(b"fedward/signature/1" + magic + hashlib.sha256(header).digest())
    return PREFIX.pack(magic, len(header)) + header + signature


def with_field(**changes: Any) -> bytes:  # noqa: ANN401 -- any JSON value
    """A signed reply whose header has other values, of any type."""
    return frame_of(canonical_bytes(a_manifest().model_dump(mode="json") | changes), HOSPITAL)


@pytest.mark.parametrize(
    "header",
    [
        json.dumps(a_manifest().model_dump(mode="json")).encode(),
        header_bytes(a_manifest()) + b" ",
        b" " + header_bytes(a_manifest()),
        header_bytes(a_manifest()).replace(b'"epoch":1', b'"epoch":1.0'),
        header_bytes(a_manifest()).replace(b'"epoch":1', b'"epoch":01'),
        header_bytes(a_manifest()).replace(b'"epoch":1', b'"epoch":1,"epoch":1'),
        header_bytes(a_manifest()).replace(b"hospital-1", b"hospital\\u002d1"),
        header_bytes(a_manifest()).decode().encode("utf-16"),
        header_bytes(a_manifest()).decode().encode("utf-8-sig"),
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 8000,
        b"9" * 8000,
    ],
    ids=range(16),
)
def test_only_the_canonical_header_is_taken(header: bytes) -> None:
    """One value has one encoding, so that a digest of the value is one of the bytes; all of these are signed well."""
    with pytest.raises(MalformedMessage):
        open_reply(frame_of(header, HOSPITAL))
    assert open_reply(frame_of(header_bytes(a_manifest()), HOSPITAL))


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": True},
        {"epoch": "1"},
        {"epoch": -1},
        {"epoch": 2**40},
        {"epoch": None},
        {"run": "0" * 31 + "\n"},
        {"run": "0" * 33},
        {"run": "G" * 32},
        {"run": "../" * 10 + "aa"},
        {"reason": "secret path /data"},
        {"reason": "a" * 41},
        {"hospital": "Hospital-1"},
        {"hospital": ["hospital-1"]},
        {"hospital": "\ud800"},
        {"kind": "test"},
        {"root": None},
        {"opening": None},
        {"revealed": None},
        {"opening": "9" * 63},
        {"applied": {}},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_field_outside_its_range_is_refused(changes: dict[str, Any]) -> None:
    """Strict types; no field holds free text, so none can carry a patient's data out."""
    with pytest.raises(MalformedMessage):
        open_reply(with_field(**changes))
    assert open_reply(with_field())


def test_a_large_header_is_refused_before_it_is_parsed() -> None:
    """The coordinator parses a manifest before it can check who signed it, so a hostile one must be small."""
    bomb = b"[" + b"[]," * (2 << 20) + b"[]]"
    for header in (bomb, b'{"a":' + bomb + b"}", b'"' + b"a" * MAX_MANIFEST_BYTES + b'"'):
        frame = frame_of(header, HOSPITAL)
        tracemalloc.start()
        with pytest.raises(MalformedMessage):
            open_reply(frame)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
    # Control: what parsing the bomb would have cost.
    tracemalloc.start()
    json.loads(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 100 << 20


def hostile(accidents: random.Random, frame: bytes) -> bytes:
    """A frame after one to four random accidents."""
    made = bytearray(frame)
    for _ in range(accidents.randint(1, 4)):
        at = accidents.randrange(len(made) + 1)
        match accidents.randrange(6):
            case 0:
                made[at : at + 1] = accidents.randbytes(1)
            case 1:
                made[at:at] = accidents.randbytes(accidents.randint(1, 40))
            case 2:
                del made[at : at + accidents.randint(1, 40)]
            case 3:
                made[8:12] = accidents.randbytes(4)
            case 4:
                made = bytearray(accidents.randbytes(accidents.randint(0, 300)))
            case _:
                made[PREFIX.size :] = accidents.randbytes(accidents.randint(0, 2000))
    return bytes(made)


def test_two_thousand_hostile_frames_are_refused_by_name_in_little_memory() -> None:
    """Whatever comes: a PeerError, never another exception, and no allocation by a claimed size."""
    source = random.Random(7)  # noqa: S311 -- accidents, no secrets
    cases: list[tuple[bytes, Decode]] = [(REQUEST, open_request), (REPLY, open_reply)]
    tracemalloc.start()
    for number in range(2000):
        frame, decode = cases[number % 2]
        made = hostile(source, frame)
        if made.startswith(frame) and decode is open_reply:
            continue  # bytes behind a reply are its body
        if made != frame:
            with pytest.raises(PeerError):
                decode(made)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
