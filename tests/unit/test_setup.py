"""Start scripts of the thin environment: they run wherever the checkout lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.start_scripts import write_start_scripts

PROGRAM = "import sys\nprint(sys.executable, *sys.argv[1:], sep='|')\n"
PLACES = ["plain", "with a space", "deep/" + "long-name/" * 15]


def environment(folder: Path) -> Path:
    """A folder with an interpreter."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


@pytest.mark.parametrize("shared_place", PLACES)
@pytest.mark.parametrize("thin_place", PLACES)
def test_a_start_script_runs_the_checkouts_interpreter(tmp_path: Path, shared_place: str, thin_place: str) -> None:
    """Also where the kernel would cut the script's first line: at a blank, or behind 127 bytes."""
    shared, thin = environment(tmp_path / "shared" / shared_place), environment(tmp_path / "thin" / thin_place)
    tool = shared / "bin" / "tool"
    interpreter = f"{shared}/bin/python3.11"
    shell = f"#!/bin/sh\n'''exec' \"{interpreter}\" \"$0\" \"$@\"\n' '''\n"
    tool.write_text((f"#!{interpreter}\n" if shared_place == "plain" else shell) + PROGRAM)
    tool.chmod(0o755)
    write_start_scripts(shared, thin)
    done = subprocess.run([thin / "bin" / "tool", "a b", "c"], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 -- written above
    assert (done.stdout, done.stderr) == (f"{thin}/bin/python|a b|c\n", "")


def test_other_programs_are_linked_and_ours_are_not_touched(tmp_path: Path) -> None:
    """A compiled tool has no interpreter to change; a script for another one keeps it."""
    shared, thin = environment(tmp_path / "shared"), environment(tmp_path / "thin")
    (shared / "bin" / "compiled").write_bytes(b"\x7fELF\n")
    (shared / "bin" / "other").write_text("#!/bin/sh\necho hello\n")
    (shared / "bin" / "mine").write_text(f"#!{shared}/bin/python\n")
    (thin / "bin" / "mine").write_text("mine")
    write_start_scripts(shared, thin)
    assert (thin / "bin" / "compiled").resolve() == shared / "bin" / "compiled"
    assert (thin / "bin" / "other").resolve() == shared / "bin" / "other"
    assert (thin / "bin" / "mine").read_text() == "mine"
    assert (thin / "bin" / "python").resolve() == Path(sys.executable).resolve()
