"""What a command makes of a file that the machine refuses, and of a fault of its own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from common.command import run_command
from common.errors import ConfigError


def no_folder(folder: Path) -> None:
    """A file where a folder belongs."""
    (folder / "file").write_text("")
    (folder / "file" / "below").mkdir(parents=True)


def missing(folder: Path) -> None:
    """A file that is not there."""
    (folder / "missing").read_bytes()


def full(_: Path) -> None:
    """A disk without space; the kernel's answer to a write names no file."""
    with Path("/dev/full").open("wb") as file:
        file.write(b"x")


MISTAKES: list[tuple[Callable[[Path], None], str]] = [
    (no_folder, "{}/file/below: Not a directory; check this path, or name another in the configuration file"),
    (missing, "{}/missing: No such file or directory; check this path, or name another in the configuration file"),
    (full, "No space left on device; free space on that disk or mend it, then try again"),
]


def run(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `work` as a command; its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(work)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run_command(app)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("mistake", "said"), MISTAKES)
def test_a_file_that_the_machine_refuses_is_one_line(
    mistake: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Path, reason, what to do."""
    assert run(lambda: mistake(tmp_path), monkeypatch) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {said.format(tmp_path)}")


def test_a_sentence_cannot_steer_the_terminal_and_always_gets_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files and columns stand in sentences: escape codes, and letters that the terminal's encoding lacks."""

    def refuse() -> None:
        typer.echo("Müller")
        raise ConfigError("seen 'a\x1b[2Jb' in Müller.csv\nand this on a line of its own")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, (tmp_path / name).open("w", encoding="cp1251"))
    assert run(refuse, monkeypatch) == 2
    sys.stdout.close()
    sys.stderr.close()
    assert (tmp_path / "stdout").read_text(encoding="cp1251") == "M\\xfcller\n"
    lines = (tmp_path / "stderr").read_text(encoding="cp1251").splitlines()
    assert lines == ["error: seen 'a\\x1b[2Jb' in M\\xfcller.csv", "and this on a line of its own"]


def lost_connection() -> None:
    """Nobody listens: no file is to blame."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        socket.create_connection(probe.getsockname()).close()


def closed_descriptor() -> None:
    """A descriptor that was closed before."""
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)
    os.read(descriptor, 1)


def waited() -> None:
    """In Python 3.11 a timeout is an OSError."""
    raise TimeoutError


@pytest.mark.parametrize("fault", [lost_connection, closed_descriptor, waited])
def test_a_fault_of_the_program_keeps_its_traceback(fault: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence about a path would send the operator on a wrong track."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(fault)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(OSError, match=r".*"):
        run_command(app)
