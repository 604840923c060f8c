"""Malformed copies of a valid message: cut, extended, flipped, retyped, restructured, and signed by the right key."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.canonical import canonical_bytes
from common.identity import SIGNATURE_BYTES
from common.wire import frame, signed_bytes

Path = tuple[str | int, ...]
Wrong = dict[Path, Sequence[Any]]
_PREFIX = struct.Struct(">8sI")
# No field of any message takes one of these.
_WRONG_VALUES: tuple[Any, ...] = (1.5, -1, 2**60, True, "\x00", "é", {"x": 1}, [[[]]], [1.5], "g" * 5000)
_DEEP = 100_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind of message is made of JSON and a body, and signed.

    Args:
        magic: Of a frame; empty for a document, which is JSON alone and holds its signature.
        sign: The right key.
        label: What a document's signature is taken over begins with this.
        signed: Where the signed object is in a document.
        wrong: Values that are well-typed and must be refused under a right signature, by field.
        digest: Puts a body's digest into the JSON, where a body is taken that must be refused under a right one.
        owns_body: Whether the signer may choose the body's bits: a hospital its ciphertexts.
    """

    magic: bytes
    sign: Callable[[bytes], bytes]
    label: bytes = b""
    signed: Path = ()
    wrong: Wrong = field(default_factory=dict)
    digest: Callable[[Any, bytes], None] | None = None
    owns_body: bool = False

    def split(self, data: bytes) -> tuple[Any, bytes]:
        """The JSON and the body of a valid message."""
        if not self.magic:
            return json.loads(data), b""
        length = _PREFIX.unpack_from(data)[1]
        end = _PREFIX.size + length
        return json.loads(data[_PREFIX.size : end]), data[end + SIGNATURE_BYTES :]

    def seal(self, header: Any, body: bytes) -> bytes:  # noqa: ANN401 -- any JSON
        """The message of this JSON and body, rightly signed."""
        if self.magic:
            return self.seal_text(canonical_bytes(header), body)
        if isinstance(header, dict):
            part = at(header, self.signed)
            if isinstance(part, dict):
                rest = {name: value for name, value in part.items() if name != "signature"}
                part["signature"] = self.sign(self.label + canonical_bytes(rest)).hex()
        return canonical_bytes(header)

    def seal_text(self, header: bytes, body: bytes) -> bytes:
        """The same of any bytes in the place of the JSON; a document has no signature beside it."""
        return frame(self.magic, header, self.sign(signed_bytes(self.magic, header)), body) if self.magic else header


def at(value: Any, path: Path) -> Any:  # noqa: ANN401 -- any JSON
    """What stands at a path; None if nothing does."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def mutate(data: bytes, shape: Shape, draw: random.Random) -> tuple[str, bytes]:
    """One malformed copy of a valid message.

    Returns:
        What was done, and the bytes; they may be the valid ones by chance.
    """
    header, body = shape.split(data)
    ways: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[: draw.randrange(len(data))],
        "extended": lambda: data + draw.randbytes(draw.randint(1, 40)),
        "flipped": lambda: _flipped(data, draw),
        "resized": lambda: _resized(data, shape, draw),
        "bomb": lambda: shape.seal_text(_bomb(draw), body),
        "noise": lambda: data[: draw.choice((0, 8, 12))] + draw.randbytes(draw.randint(0, 2000)),
        "retyped": lambda: shape.seal(_retyped(header, draw), body),
        "restructured": lambda: shape.seal_text(_restructured(header, draw), body),
        "wrong value": lambda: _with_wrong_value(data, header, body, shape, draw),
    }
    if shape.digest is not None:
        ways["other body"] = lambda: _with_other_body(header, body, shape, draw)
    done = draw.choice(list(ways))
    return done, ways[done]()


def _flipped(data: bytes, draw: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def _resized(data: bytes, shape: Shape, draw: random.Random) -> bytes:
    """A length that is claimed and not there."""
    if not shape.magic:
        return b"[" * draw.randint(1, _DEEP)
    claimed = draw.choice((0, 1, 8 << 10, 8 << 20, 2**31, 2**32 - 1, draw.randrange(2**32)))
    return data[:8] + claimed.to_bytes(4, "big") + data[12:]


def _bomb(draw: random.Random) -> bytes:
    """Little text that takes much memory once it is parsed."""
    one = draw.choice((b"[]", b"{}", b'"ab"', b"257", b'{"a":[]}'))
    return b"[" + b",".join([one] * draw.choice((10, 1000, 15_000, 100_000))) + b"]"


def _paths(value: Any, path: Path = ()) -> list[Path]:  # noqa: ANN401 -- any JSON
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for step, one in inner for found in _paths(one, (*path, step)))]


def _retyped(header: Any, draw: random.Random) -> Any:  # noqa: ANN401 -- any JSON
    """A field of another type, missing, or unknown."""
    path = draw.choice(_paths(header)[1:])
    parent, step, choice = at(header, path[:-1]), path[-1], draw.randrange(4)
    if choice == 0 and isinstance(parent, dict):
        del parent[step]
    elif choice == 1 and isinstance(parent, dict):
        parent[draw.choice(("x", "__class__", "signature2", "é"))] = 1
    else:
        parent[step] = draw.choice(_WRONG_VALUES)
    return header


def _restructured(header: Any, draw: random.Random) -> bytes:  # noqa: ANN401 -- any JSON
    """The same JSON in another form, or what is no JSON, or too deep."""
    text = canonical_bytes(header)
    name = draw.choice(sorted(header))
    twice = b"," + json.dumps(name).encode() + b":" + canonical_bytes(header[name]) + b"}"
    forms: tuple[Callable[[], bytes], ...] = (
        lambda: json.dumps(header, indent=1, sort_keys=True).encode(),
        lambda: text.replace(b":", b": ", 1),
        lambda: b'{"plan":"",' + text[1:],
        lambda: text[:-1] + twice,
        lambda: b"\xef\xbb\xbf" + text,
        lambda: (b"[" if draw.random() < 0.5 else b'{"a":') * draw.randint(1000, _DEEP),
        lambda: text.replace(b":", b":NaN,", 1),
        lambda: text.decode().encode("utf-16"),
        lambda: text[: draw.randrange(1, len(text))],
    )
    return draw.choice(forms)()


def _with_other_body(header: Any, body: bytes, shape: Shape, draw: random.Random) -> bytes:  # noqa: ANN401 -- any JSON
    """Another body under a right signature: longer, shorter, flipped, or of words outside the ring."""
    others = [body + draw.randbytes(draw.randint(1, 100)), body[: -draw.randint(1, 100)], b"\xff" * len(body)]
    if body and not shape.owns_body:
        others.append(_flipped(body, draw))
    made = draw.choice(others)
    if made == body:
        made = b"\x00"
    if shape.digest is not None:
        shape.digest(header, made)
    return shape.seal(header, made)


def _with_wrong_value(data: bytes, header: Any, body: bytes, shape: Shape, draw: random.Random) -> bytes:  # noqa: ANN401 -- any JSON
    choices = {path: values for path, values in shape.wrong.items() if at(header, path) is not None}
    if not choices:
        return _flipped(data, draw)
    path = draw.choice(sorted(choices, key=str))
    at(header, path[:-1])[path[-1]] = draw.choice(choices[path])
    return shape.seal(header, body)
