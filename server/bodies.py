"""Bodies of requests that are read where they are needed, so that a large one is never in memory."""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Protocol

from common.errors import StoreError
from common.masked_sum import Records
from common.transcript import MerkleTree, path_bytes
from common.verdicts import record_with_path

PIECE_BYTES = 1 << 20


class Digest(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: bytes, /) -> None:
        """More bytes."""

    def copy(self) -> Digest:
        """One that goes on by itself."""

    def hexdigest(self) -> str:
        """Of all so far."""


class Body(Protocol):
    """Bytes that can be read in parts."""

    @property
    def size_bytes(self) -> int:
        """How many."""

    def read(self, start: int, stop: int) -> bytes:
        """Those from one offset to another, both within it."""


@dataclass(frozen=True, slots=True)
class HeldBody:
    """A small one."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """See `Body`."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """See `Body`."""
        return self.data[start:stop]


@dataclass(frozen=True, slots=True)
class StoredBody:
    """One that lies in the store.

    Args:
        size_bytes: Its length.
        open: Opens it.
    """

    size_bytes: int
    open: Callable[[], AbstractContextManager[Records]]

    def read(self, start: int, stop: int) -> bytes:
        """See `Body`."""
        with self.open() as read:
            return bytes(read(start, stop))


@dataclass(frozen=True, slots=True)
class FileBody:
    """One that lies in an open file.

    Args:
        size_bytes: Its length.
        file: Holds it from its start.
    """

    size_bytes: int
    file: IO[bytes]

    def read(self, start: int, stop: int) -> bytes:
        """See `Body`."""
        self.file.seek(start)
        return self.file.read(stop - start)


@dataclass(frozen=True, slots=True)
class JoinedBody:
    """Several, one after the other."""

    parts: Sequence[Body]
    _ends: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", tuple(accumulate(part.size_bytes for part in self.parts)))

    @property
    def size_bytes(self) -> int:
        """See `Body`."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> bytes:
        """See `Body`."""
        found = []
        for index in range(bisect_right(self._ends, start), len(self.parts)):
            begin = self._ends[index] - self.parts[index].size_bytes
            if begin >= stop:
                break
            found.append(self.parts[index].read(max(start - begin, 0), min(stop, self._ends[index]) - begin))
        return b"".join(found)


class RecordsBody:
    """Some chunks of an upload as their verifiers get them, each with its Merkle path.

    Args:
        opened: Opens the upload.
        tree: The upload's.
        own: The chunks, in ascending order.
        chunks: Ciphertexts of the upload.
        record_bytes: Bytes of each.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Records]],
        tree: MerkleTree,
        own: Sequence[int],
        *,
        chunks: int,
        record_bytes: int,
    ) -> None:
        self._opened, self._tree, self._own, self._record_bytes = opened, tree, own, record_bytes
        self._ends = list(accumulate(record_bytes + path_bytes(chunk, chunks) for chunk in own))

    @property
    def size_bytes(self) -> int:
        """See `Body`."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> bytes:
        """See `Body`."""
        first, last, size = bisect_right(self._ends, start), bisect_left(self._ends, stop), self._record_bytes
        before = self._ends[first - 1] if first else 0
        with self._opened() as read:
            whole = b"".join(
                record_with_path(read(chunk * size, (chunk + 1) * size), self._tree, chunk)
                for chunk in self._own[first : last + 1]
            )
        return whole[start - before : stop - before]


@dataclass(frozen=True, slots=True)
class PageHashes:
    """Hashes of a body up to some place, each byte of which was read once.

    Args:
        page_bytes: Length of a page.
        pages: Digest of each page, hex.
    """

    page_bytes: int
    pages: tuple[str, ...] = ()
    _whole: Digest = field(default_factory=hashlib.sha256)

    def up_to(self, stop: int, body: Body) -> PageHashes:
        """The same up to a later place in a body that begins with the one before, which ended with a page."""
        pages, whole = list(self.pages), self._whole.copy()
        for start in range(len(pages) * self.page_bytes, stop, self.page_bytes):
            page = body.read(start, min(start + self.page_bytes, stop))
            whole.update(page)
            pages.append(hashlib.sha256(page).hexdigest())
        return PageHashes(self.page_bytes, tuple(pages), whole)

    @property
    def whole(self) -> str:
        """SHA-256 of all of it, hex."""
        return self._whole.hexdigest()


@contextmanager
def spooled(folder: Path) -> Iterator[IO[bytes]]:
    """A file without a name, for what is too large for the memory; it is gone at the end.

    Raises:
        StoreError: If the disk refuses.
    """
    with spooling(folder), tempfile.TemporaryFile(dir=folder) as file:
        yield file


@contextmanager
def spooling(folder: Path) -> Iterator[None]:
    """Work on such a file.

    Raises:
        StoreError: If the disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder}: the disk refuses ({error.strerror}); free disk space") from error


def pieces_of(body: Body) -> Iterator[bytes]:
    """All of a body, a piece at a time."""
    for start in range(0, body.size_bytes, PIECE_BYTES):
        yield body.read(start, min(start + PIECE_BYTES, body.size_bytes))
