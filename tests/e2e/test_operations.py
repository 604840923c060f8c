"""docs/operations.md, line by line: its commands are read from the page and run in their order, by three hospitals."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest

from tests.support.operations_page import PAGE, played_lines
from tests.support.operations_players import HOSPITALS, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the page's backup needs the sqlite3 command"),
]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The whole page, and then another run by those who were restored and started again."""
    with Page(tmp_path_factory.mktemp("page")) as page:
        page.prepare()
        for line in played_lines(PAGE.read_text(encoding="utf-8")):
            page.play(line)
        restored = "fedward-server {} --config restored/coordinator/server.yaml"
        page.do(restored.format("run organised/plan.yaml"), page.organiser)
        page.do(restored.format("status"), page.organiser)
        yield page


def test_every_line_of_the_page_was_run_or_is_excepted_by_name(played: Page) -> None:
    """Each succeeded, or the test would have ended there."""
    assert played_lines(PAGE.read_text(encoding="utf-8")) == played.seen
    assert len(played.seen) >= 20


def test_a_run_that_was_stopped_was_finished_and_so_was_one_after_all_restores(played: Page) -> None:
    """By all three: two complete sets of results, and the page's `status` shows the id that `run` printed."""
    status = played.said["fedward-server status --config organised/coordinator/server.yaml"][0]
    assert status.startswith(f"{played.run_id} finished, last complete round ")
    after = played.said["fedward-server status --config restored/coordinator/server.yaml"][0].splitlines()
    assert len(after) == 2
    assert after[0].startswith(f"{played.run_id} finished")
    assert " finished, last complete round " in after[1]
    models: dict[str, set[bytes]] = {}
    for name in HOSPITALS:
        for path in (played.home(name) / "site" / "results").glob("*/model.safetensors"):
            models.setdefault(path.parent.name, set()).add(path.read_bytes())
        assert len(list((played.home(name) / "site" / "results").glob("*/model.safetensors"))) == 2
    assert [len(found) for found in models.values()] == [1, 1]


def test_the_doctor_finds_nothing_wrong_at_any_time(played: Page) -> None:
    """Beside the running site, of each part, after a restore and after an upgrade."""
    said = [text for line, texts in played.said.items() if " doctor " in line for text in texts]
    assert len(said) == 5
    assert all(re.search(r"all \d+ checks are well", text) for text in said)


def test_a_restored_site_has_its_keys_and_its_spending(played: Page) -> None:
    """The ledger of the backup holds the charges of the first run."""
    text = played.said["fedward-client doctor --config site/site.yaml --part site"][0]
    spent = re.search(r"ledger: (\d+) entries, and it lacks none that .*; epsilon ([\d.]+) of 8 spent", text)
    assert spent is not None, text
    assert int(spent[1]) > 0
    assert float(spent[2]) > 0
    assert "pass  CKKS key: " in text
