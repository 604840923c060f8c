"""A child's log: every line once, whole and in order, in files of bounded size, whatever the child writes."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.child_log import MAX_LINE_BYTES, TAIL_BYTES, ChildLog, RotatedFile, Rotation
from tests.support.flower_federation import wait_until


def kept(path: Path) -> list[bytes]:
    """The contents of all files of a log, oldest first."""
    numbered = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: -int(p.suffix[1:]))
    return [each.read_bytes() for each in (*numbered, path)]


def write_all(path: Path, pieces: list[bytes], rotation: Rotation) -> ChildLog:
    """A log of output that came in these pieces."""
    log = ChildLog(RotatedFile(path, rotation), None)
    for piece in pieces:
        log.feed(piece)
    log.end()
    return log


@settings(deadline=None, max_examples=40)
@given(
    lines=st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 30), max_size=80),
    max_bytes=st.integers(1, 200),
)
def test_no_line_is_lost_torn_or_out_of_order(
    lines: list[bytes], cuts: list[int], max_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However the pipe cuts the output, and wherever files end."""
    path = tmp_path_factory.mktemp("log") / "child.log"
    data = b"".join(line + b"\n" for line in lines)
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    write_all(path, [*pieces, rest], Rotation(max_bytes, files=45))
    files = kept(path)
    assert b"".join(files) == data
    assert all(content.endswith(b"\n") for content in files)
    assert all(len(content) <= max_bytes or content.count(b"\n") == 1 for content in files)


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    """The disk of a site that runs for years does not fill up; nobody else reads its logs."""
    path = tmp_path / "logs" / "child.log"
    write_all(path, [b"%04d\n" % number for number in range(1000)], Rotation(max_bytes=100, files=3))
    files = kept(path)
    assert [len(content) for content in files] == [100, 100, 100]
    assert b"".join(files) == b"".join(b"%04d\n" % number for number in range(940, 1000))
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    alone = tmp_path / "alone.log"
    write_all(alone, [b"%04d\n" % number for number in range(50)], Rotation(max_bytes=100, files=1))
    assert kept(alone) == [b"".join(b"%04d\n" % number for number in range(40, 50))]


def test_a_log_goes_on_where_the_last_start_ended(tmp_path: Path) -> None:
    """And a file that is already too large is put aside at the first line."""
    path, rotation = tmp_path / "child.log", Rotation(max_bytes=100, files=3)
    write_all(path, [b"first\n"], rotation)
    write_all(path, [b"second\n"], rotation)
    assert kept(path) == [b"first\nsecond\n"]
    path.write_bytes(b"x" * 500 + b"\n")
    write_all(path, [b"third\n"], rotation)
    assert kept(path) == [b"x" * 500 + b"\n", b"third\n"]


def test_a_line_without_end_fills_neither_memory_nor_disk(tmp_path: Path) -> None:
    """Broken after 64 KiB, and rotated like others; not a byte of what is kept is lost."""
    path = tmp_path / "child.log"
    log = ChildLog(RotatedFile(path, Rotation(max_bytes=1 << 20, files=2)), None)
    for _ in range(100):
        log.feed(b"x" * 65_000)
        assert len(log._rest) <= MAX_LINE_BYTES
        assert len(log.text()) <= TAIL_BYTES
    log.end()
    files = kept(path)
    assert sum(map(len, files)) <= 2 << 20
    assert {len(line) for line in files[0].split(b"\n")[:-1]} == {MAX_LINE_BYTES}
    whole = tmp_path / "whole.log"
    write_all(whole, [b"y" * 200_000, b"\n", b"end"], Rotation())
    assert whole.read_bytes().replace(b"\n", b"") == b"y" * 200_000 + b"end"


def test_readiness_is_seen_in_a_piece_of_a_line_and_through_colours(tmp_path: Path) -> None:
    """Flower paints its lines; some programs print no newline."""
    for pieces in ([b"INFO: ser", b"ves"], [b"\x1b[92mser\x1b[0mves\n"], [b"a\nserves now\nb\n" + b"z" * 200_000]):
        log = ChildLog(RotatedFile(tmp_path / "child.log", Rotation()), "^(INFO: )?serves")
        for piece in pieces:
            assert not log.ready
            log.feed(piece)
        assert log.ready
    log = ChildLog(RotatedFile(tmp_path / "child.log", Rotation()), "^serves")
    log.feed(b"it serves\nnothing\n")
    assert not log.ready


def test_what_a_full_disk_refused_is_counted_and_said(tmp_path: Path) -> None:
    """The child goes on; the log says what it lacks as soon as it can."""
    path = tmp_path / "child.log"
    path.symlink_to("/dev/full")
    log = ChildLog(RotatedFile(path, Rotation()), None)
    log.feed(b"lost\n")
    log.feed(b"too\n")
    path.unlink()
    log.feed(b"kept\n")
    log.end()
    assert path.read_bytes() == b"[9 bytes of this log were lost: No space left on device]\nkept\n"


def test_a_writer_never_waits_for_the_supervisors_loop(tmp_path: Path) -> None:
    """The pipe is emptied by a thread: this one, which never runs an event loop, reads nothing."""
    reading, writing = os.pipe()
    log = ChildLog(RotatedFile(tmp_path / "child.log", Rotation(max_bytes=1 << 18, files=20)), None)
    log.follow(reading, "child")
    data = b"".join(b"%07d\n" % number for number in range(500_000))

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 30
    while writer.is_alive() and time.monotonic() < deadline:
        sum(range(10_000))
    assert not writer.is_alive()
    wait_until(lambda: log.complete, "end of the log", timeout_s=10)
    assert b"".join(kept(tmp_path / "child.log")) == data
