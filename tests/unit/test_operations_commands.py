"""docs/operations.md: every command parses as its program parses it, and is run by a test or excepted by name.

tests/e2e/test_operations.py runs them.
"""

from __future__ import annotations

import click
import pytest

from tests.support.operations_page import NOT_RUN, PAGE, RUN_ELSEWHERE, block_lines, inline_lines, ours, parse

TEXT = PAGE.read_text(encoding="utf-8")
OURS = [line for line in (*block_lines(TEXT), *inline_lines(TEXT)) if ours(line)]
# Within a sentence a command may stand for itself.
NAMED_ONLY = {line for line in inline_lines(TEXT) if len(line.split()) == 2}


@pytest.mark.parametrize("line", sorted(set(OURS) - NAMED_ONLY))
def test_every_command_line_is_one_that_its_program_takes(line: str) -> None:
    """Argument for argument: a reader copies it."""
    parse(line)


@pytest.mark.parametrize("line", sorted(NAMED_ONLY))
def test_a_command_that_is_only_named_exists(line: str) -> None:
    """With `--help`, which no argument may be missing for."""
    with pytest.raises(click.exceptions.Exit) as ended:
        parse(f"{line} --help")
    assert ended.value.exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        "fedward-client start",
        "fedward-client start --confg site.yaml",
        "fedward-client keygen hospital-1 hospital-2 hospital-3",
        "fedward-client keygen hospital-1 --units many",
        "fedward-client doctor --config site.yaml --part house",
        "fedward-server run --config server.yaml",
        "fedward-server rum plan.yaml --config server.yaml",
        "fedward bench chaos --rounds 1",
    ],
)
def test_a_wrong_line_would_be_found(line: str) -> None:
    """The control: a missing, misspelt, superfluous or impossible argument."""
    with pytest.raises(click.UsageError):
        parse(line)


def test_the_longest_way_to_a_command_is_followed() -> None:
    """The control of the control: sound lines, also of a subcommand."""
    assert parse("fedward bench chaos --rounds 20 --json out.json") == ("fedward", "bench", "chaos")
    assert parse("sudo -u a-b /opt/fedward/bin/fedward-client doctor -c x") == ("fedward-client", "doctor")


def test_exceptions_are_lines_of_the_page_and_none_of_our_commands() -> None:
    """A line that was changed must be thought about again."""
    lines = block_lines(TEXT)
    assert set(NOT_RUN) <= set(lines)
    assert not [line for line in NOT_RUN if ours(line)]
    assert all(NOT_RUN.values())


def test_sections_that_another_test_goes_through_are_on_the_page() -> None:
    """And that test calls each command of theirs."""
    for heading, test in RUN_ELSEWHERE.items():
        section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        source = (PAGE.parents[1] / test).read_text(encoding="utf-8")
        for line in block_lines(section):
            assert parse(line)[-1] in source, line


def test_what_is_named_in_a_sentence_is_run_from_a_block() -> None:
    """So no command of ours is on the page that tests/e2e/test_operations.py does not run."""
    run = {parse(line) for line in block_lines(TEXT) if ours(line)}
    assert {tuple(line.split()[:2]) for line in inline_lines(TEXT)} <= run
