"""The commands of docs/operations.md, as they stand there, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import typer.main

import client.cli
import scripts.cli
import server.cli

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
APPS = {"fedward": scripts.cli.app, "fedward-client": client.cli.app, "fedward-server": server.cli.app}
AS_OTHER_USER = re.compile(r"^sudo -u \S+ /opt/fedward/bin/")
_FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:{'|'.join(APPS)}) [^`]+)`")

INSTALLED = (
    "needs a package index and 7 GB; scripts/setup.sh, which `make test` runs, installs the same pinned packages"
)
PROXIED = "a variable; tests/unit/test_doctor.py and tests/e2e/test_proxy.py run doctor and gateway with it"
NOT_RUN = {
    "python3.11 -m venv /opt/fedward": INSTALLED,
    '/opt/fedward/bin/pip install --constraint constraints.txt ".[site,data]"': INSTALLED,
    '/opt/fedward/bin/pip install --constraint constraints.txt --upgrade ".[site,data]"': INSTALLED,
    "export https_proxy=http://proxy.hospital.example:3128": PROXIED,
    "export no_proxy=.hospital.example": PROXIED,
}
"""Lines that tests/e2e/test_operations.py does not run, and why."""

RUN_ELSEWHERE = {
    "The ledger": "tests/unit/test_ledger_commands.py",
    "Rotate the key": "tests/e2e/test_revoke.py",
    "Revoke a hospital": "tests/e2e/test_revoke.py",
    "A hospital joins later": "tests/unit/test_succession.py",
}
"""Sections of the page whose way another test goes, with runs, rounds and hospitals of its own."""


def block_lines(text: str) -> list[str]:
    """Lines of the `sh` blocks of a page, in order."""
    lines = [line.strip() for block in _FENCE.findall(text) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def played_lines(text: str) -> list[str]:
    """Lines that tests/e2e/test_operations.py runs, in order."""
    kept = [one for one in re.split(r"^## ", text, flags=re.MULTILINE) if one.split("\n")[0] not in RUN_ELSEWHERE]
    return [line for one in kept for line in block_lines(one) if line not in NOT_RUN]


def inline_lines(text: str) -> list[str]:
    """Commands of ours within sentences."""
    return _INLINE.findall(_ANY_FENCE.sub("", text))


def ours(line: str) -> bool:
    """Whether a line runs one of our commands."""
    return shlex.split(AS_OTHER_USER.sub("", line))[0] in APPS


def parse(line: str) -> tuple[str, ...]:
    """Have the command's own parser take a line, argument for argument; nothing is run.

    Returns:
        Names of the command and of its subcommands.

    Raises:
        click.UsageError: If it would be refused.
    """
    name, *words = shlex.split(AS_OTHER_USER.sub("", line))
    command, path = typer.main.get_command(APPS[name]), [name]
    context = command.make_context(name, list(words))
    while isinstance(command, click.Group):
        found, below, words = command.resolve_command(context, [*context._protected_args, *context.args])
        if below is None or found is None:
            raise click.UsageError(f"{line}: no such command")
        command, context = below, below.make_context(found, list(words), parent=context)
        path.append(found)
    return tuple(path)
