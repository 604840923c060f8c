"""The documentation says what is so: generated pages, commands, links, names of tests, files and errors."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import client.cli
import common.errors
import scripts.cli
import server.cli
from common.server_config import load_server
from common.site_config import load_site
from scripts.config_docs import PAGE, page
from scripts.demo_data import SYNTHETIC_IMAGES_PER_CLASS
from scripts.synthetic import CLASSES

REPOSITORY = Path(__file__).parents[2]
PAGES = (*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md")))
APPS = {"fedward": scripts.cli.app, "fedward-client": client.cli.app, "fedward-server": server.cli.app}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EACH_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def shell_lines(text: str) -> list[str]:
    """The commands of a page: lines of its `sh` blocks, and `code` that names one of our commands with something."""
    blocks = [body for language, body in FENCE.findall(text) if language == "sh"]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(rf"`((?:{'|'.join(APPS)}|make) [^`]+)`", FENCE.sub("", text))
    return [line for line in (*lines, *inline) if line and not line.startswith("#")]


@cache
def help_text(command: str, *subcommands: str) -> str:
    """What `--help` prints; empty if there is no such command."""
    result = CliRunner().invoke(APPS[command], [*subcommands, "--help"], env={"COLUMNS": "200"})
    return typer.unstyle(result.output) if result.exit_code == 0 else ""


def mistakes(line: str) -> list[str]:
    """What a command line names that does not exist."""
    words = [word for word in shlex.split(line) if word not in ("...", "…")]
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return [word for word in words[1:2] if word not in targets]
    if words[0] not in APPS:
        return []
    path: list[str] = []
    while (
        len(path) + 1 < len(words)
        and words[len(path) + 1].isalpha()
        and help_text(words[0], *path, words[1:][len(path)])
    ):
        path.append(words[len(path) + 1])
    if not path:
        return words[1:2]
    shown = set(re.findall(r"--?[a-z][a-z-]*", help_text(words[0], *path)))
    return [word for word in words[1:] if word.startswith("-") and word.split("=")[0] not in shown]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    titles = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_configuration_page_is_what_the_models_say() -> None:
    """A key without a line, or a line without a key, would send an operator the wrong way."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.config_docs"


def test_every_key_has_a_meaning() -> None:
    """A row whose last cell is empty says that a field has no description."""
    rows = [row for row in page().splitlines() if row.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


@EACH_PAGE
def test_every_command_in_the_documentation_exists(path: Path) -> None:
    """Also its options: the first thing that a reader does is to copy a line."""
    lines = shell_lines(path.read_text(encoding="utf-8"))
    assert {line: mistakes(line) for line in lines if mistakes(line)} == {}


def test_the_readme_shows_the_whole_way_by_hand() -> None:
    """Split, provision, coordinator, five hospitals, run."""
    lines = shell_lines((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    for start in ("fedward split", "fedward provision", "fedward-server start", "fedward-server run", "make demo"):
        assert any(line.startswith(start) for line in lines), start
    assert sum(line.startswith("fedward-client start --config federation/hospital-") for line in lines) == 5


def test_a_wrong_command_would_be_found() -> None:
    """Control of `mistakes`."""
    assert mistakes("fedward provision plan.yaml --shards parts --out federation") == []
    assert mistakes("fedward provison plan.yaml") == ["provison"]
    assert mistakes("fedward-server run plan.yaml --conf server.yaml") == ["--conf"]
    assert mistakes("fedward bench codec --parameters 5") == []
    assert mistakes("fedward bench codec --parameter 5") == ["--parameter"]
    assert mistakes("make tests") == ["tests"]


@EACH_PAGE
def test_every_link_leads_somewhere(path: Path) -> None:
    """To a file of the repository, and to a heading that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@EACH_PAGE
def test_every_file_and_test_that_is_named_exists(path: Path) -> None:
    """A claim whose test was renamed is a claim without a test."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:common|client|server|scripts|configs|docs|tests)/[\w./-]*)`", text):
        assert (REPOSITORY / name).exists(), name
    for file, test in re.findall(r"`(tests/[\w./]+\.py)::(\w+)`", text):
        assert re.search(rf"^(async )?def {test}\(", (REPOSITORY / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_error_has_a_line_for_the_operator() -> None:
    """The name is all that the coordinator's operator gets to see."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    groups = {"FedwardError", "OperatorError", "HospitalError", "PeerError"}
    names = {
        name
        for name, value in vars(common.errors).items()
        if isinstance(value, type) and issubclass(value, common.errors.FedwardError)
    }
    assert {name for name in names - groups if f"`{name}`" not in text} == set()


def test_the_demo_page_counts_the_drawn_images() -> None:
    """Nine classes, each with as many as the demo draws."""
    text = (REPOSITORY / "docs" / "demo.md").read_text(encoding="utf-8")
    assert f"draws {len(CLASSES) * SYNTHETIC_IMAGES_PER_CLASS} images" in text
    assert f"{SYNTHETIC_IMAGES_PER_CLASS} each" in text


def test_the_sample_files_belong_together() -> None:
    """A reader who copies both has one federation."""
    site = load_site(REPOSITORY / "configs" / "site.yaml")
    coordinator = load_server(REPOSITORY / "configs" / "server.yaml")
    assert site.hospital in {node.name for node in coordinator.nodes}
    assert site.gateway.superlink == coordinator.fleet_address
