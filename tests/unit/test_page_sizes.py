"""How many pages a plan's messages may have."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.config import parse_settings
from common.errors import ConfigError
from common.page_sizes import MOST_PAGES, PageSizes
from common.pages import LONG_REQUEST, MAX_HEADER_BYTES, Outline
from common.plan import Plan
from tests.support.masked_sites import MaskedSites

LARGE = 11_200_000


def changed(plan: Plan, *, page_kib: int, parameters: int) -> str:
    """The plan's file with another page and another model."""
    content = plan.model_dump(mode="json")
    content["cohort"]["page_kib"] = page_kib
    content["federation"]["trainable_parameters"] = parameters
    return yaml.safe_dump(content)


def test_a_plan_whose_messages_would_have_too_many_pages_is_refused(tmp_path: Path) -> None:
    """When it is read, and not in its first round; the sentence says what will do."""
    plan = MaskedSites(tmp_path, page_kib=16).plan
    assert parse_settings(changed(plan, page_kib=16, parameters=LARGE), Plan, source="small")
    with pytest.raises(ConfigError, match=f"at most {MOST_PAGES} are allowed; set at least 108") as refused:
        parse_settings(changed(plan, page_kib=16, parameters=30 * LARGE), Plan, source="large")
    assert "cohort.page_kib: seen 16" in str(refused.value)
    with pytest.raises(ConfigError):
        parse_settings(changed(plan, page_kib=107, parameters=30 * LARGE), Plan, source="large")
    large = parse_settings(changed(plan, page_kib=108, parameters=30 * LARGE), Plan, source="large")
    sizes = PageSizes.of(large)
    assert MOST_PAGES * 0.9 < sizes.most_request_bytes / sizes.page_bytes < MOST_PAGES


def test_the_longest_outline_fits_into_its_frame(tmp_path: Path) -> None:
    """One digest for each of the most pages that there may be."""
    sites = MaskedSites(tmp_path)
    outline = Outline(
        run="a" * 32,
        plan=sites.plan.digest,
        hospital="h" * 32,
        request="2" * 64,
        head_bytes=1,
        size_bytes=(1 << 40) - 1,
        pages=("f" * 64,) * MOST_PAGES,
    )
    frame = LONG_REQUEST.encode(outline, sites.coordinator.sign)
    assert len(frame) < MAX_HEADER_BYTES
    assert LONG_REQUEST.decode(frame, sites.coordinator.public_hex) == (outline, b"")
