"""What several unit tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the small federation, which nobody has used yet; a test works on a copy of them."""
    # torch loads only for the tests that need it.
    from tests.support.small_federation import provision_small, template  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("base")
    provision_small(folder, template())
    return folder
