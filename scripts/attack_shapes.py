"""How the valid messages of a run are made and signed, so that malformed copies can be signed by the right key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from common.messages import REPLY_MAGIC
from common.pages import FETCH as FETCHED
from common.pages import LONG_REPLY, LONG_REQUEST, WANTED
from common.pages import PAGE as BROUGHT
from common.request_frames import REQUEST_MAGIC
from common.transcript import merkle_root
from scripts.attack_mutations import Shape, Wrong
from scripts.attack_pages import FETCH, OUTLINE, PAGE, REPLY_OUTLINE, WANTED_PAGES, WATCHED
from scripts.attack_stage import Stage

Sign = Callable[[bytes], bytes]
_HEX64, _HEX32 = "ab" * 32, "ab" * 16


def shape_of(kind: str, hospital: str, stage: Stage) -> Shape:
    """How a valid message of this kind was made, so that malformed ones can be signed by the right key."""
    by_hospital = stage.sites[hospital].keys.identity.sign
    common: Wrong = {("plan",): (_HEX64,), ("epoch",): (99,), ("round",): (99,), ("hospital",): ("hospital-9", "x")}
    if kind.startswith("request"):
        wrong = common | {("attempt",): (99,), ("body_sha256",): (_HEX64,)}
        # A site does not look at the bodies of these: it has nothing to open, or holds the key already.
        reads_body = kind not in ("request deal", "request confirm")
        return Shape(REQUEST_MAGIC, stage.identity.sign, wrong=wrong, digest=_request_digest if reads_body else None)
    if kind in WATCHED:
        return _shape_of_pages(kind, stage.identity.sign, by_hospital)
    common |= {("run",): (_HEX32,)}
    if kind == "reply":
        wrong = common | {("attempt",): (2, 99), ("kind",): ("deal",), ("parameters",): (_HEX64,), ("root",): (_HEX64,)}
        wrong |= {("opening",): (_HEX64,), ("chunks",): (1, 2**39)}
        return Shape(REPLY_MAGIC, by_hospital, wrong=wrong, digest=_reply_digest, owns_body=True)
    if kind == "advert":
        wrong = {("advert", *path): values for path, values in common.items()}
        return Shape(b"", by_hospital, b"fedward/mask-message/1/advert", ("advert",), wrong | {("shares",): ([],)})
    if kind == "reveal":
        wrong = common | {
            ("attempt",): (99,),
            ("survivors",): (_HEX64,),
            ("shares",): ([], [_HEX64] * len(stage.names)),
        }
        wrong |= {("next", "advert", "round"): (99,), ("next", "advert", "hospital"): ("hospital-9",)}
        return Shape(b"", by_hospital, b"fedward/mask-message/1/reveal", (), wrong)
    wrong = {("hospital",): ("hospital-9",)}
    return Shape(b"", by_hospital, b"fedward/key-message/1", (), wrong if kind != "confirmations" else {})


def _shape_of_pages(kind: str, by_coordinator: Sign, by_hospital: Sign) -> Shape:
    """A body behind any of them is refused, and behind a page any other."""
    outline: Wrong = {("plan",): (_HEX64,), ("hospital",): ("hospital-9", "x"), ("size_bytes",): (0, 2**39)}
    # Of a wrong number: a digest alone is found out when its page comes, which the copies of pages try.
    outline |= {("pages",): ([], [_HEX64] * 999, [_HEX64] * 1000)}
    other: Wrong = {("outline",): (_HEX64,)}
    shapes: dict[str, tuple[bytes, Sign, Wrong]] = {
        OUTLINE: (LONG_REQUEST.magic, by_coordinator, outline | {("head_bytes",): (0, 2**39)}),
        WANTED_PAGES: (WANTED.magic, by_hospital, other | {("bits",): ("0", "f" * 2000)}),
        PAGE: (BROUGHT.magic, by_coordinator, other | {("index",): (999, 2**39)}),
        REPLY_OUTLINE: (
            LONG_REPLY.magic,
            by_hospital,
            outline | {("run",): (_HEX32,), ("request",): (_HEX64,), ("head_bytes",): (1, 2**39)},
        ),
        FETCH: (FETCHED.magic, by_coordinator, other | {("index",): (999, 2**39)}),
    }
    magic, sign, wrong = shapes[kind]
    return Shape(magic, sign, wrong=wrong, digest=lambda _header, _body: None)


def _request_digest(header: dict[str, Any], body: bytes) -> None:
    header["body_sha256"] = hashlib.sha256(body).hexdigest()


def _reply_digest(header: dict[str, Any], body: bytes) -> None:
    header["root"] = merkle_root(body, max(1, header["chunks"]))
