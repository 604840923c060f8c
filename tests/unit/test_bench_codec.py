"""`fedward bench codec` measures every row in one run, and its JSON is what the documents promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bench_command import run_bench

FIELDS = {
    "name",
    "up_bytes_per_parameter",
    "down_bytes_per_parameter",
    "client_seconds_per_million",
    "server_seconds_per_million",
    "decrypt_seconds_per_million",
    "relative_error",
    "peak_bytes",
}

MASKED_FIELDS = {
    "hospitals",
    "gone",
    "parameters",
    "up_bytes_per_parameter",
    "down_bytes",
    "opening_bytes",
    "verify_bytes",
    "unmask_bytes",
    "mask_seconds_per_million",
    "upload_seconds_per_million",
    "add_seconds_per_million",
    "unmask_seconds_per_million",
    "verify_seconds_per_million",
    "advert_seconds",
    "opening_seconds",
    "reveal_seconds",
    "read_adverts_seconds",
    "take_shares_seconds",
    "combine_seconds",
    "relative_error",
    "add_peak_bytes",
    "unmask_peak_bytes",
    "verify_peak_bytes",
}


def test_the_bench_writes_every_row_with_every_field(tmp_path: Path) -> None:
    """A small run of the whole bench: codecs, fresh processes for the peaks, table and file."""
    target = tmp_path / "codec.json"
    arguments = ("--parameters", "12000", "--hospitals", "3", "--repeats", "1", "--growth", "5", "--json", str(target))
    run = run_bench("codec", *arguments)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stdout
    result = json.loads(target.read_text())
    assert (result["parameters"], result["hospitals"]) == (12_000, 3)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["compact", "precise", "tenseal-8192", "float32"]
    assert all(set(row) == FIELDS and all(row[field] > 0 for field in FIELDS - {"name"}) for row in rows.values())
    assert rows["compact"]["up_bytes_per_parameter"] == 6 * 7488 / 12_000
    assert rows["float32"]["up_bytes_per_parameter"] == 4
    # The means are right: a codec that adds wrongly would be off by the size of an update.
    assert rows["compact"]["relative_error"] < 1e-3
    assert rows["precise"]["relative_error"] < 1e-10
    assert rows["tenseal-8192"]["relative_error"] < 1e-4
    assert rows["float32"]["relative_error"] < 1e-6
    check_masked_rows(result["masked"], result["goals"], run.stdout)


def check_masked_rows(rows: list[dict[str, float]], goals: dict[str, float], printed: str) -> None:
    """Rounds of three, of five, and of five of whom one is gone; the bytes are those that the codec's sizes give."""
    assert [(row["hospitals"], row["gone"]) for row in rows] == [(3, 0), (5, 0), (5, 1)]
    assert all(set(row) == MASKED_FIELDS for row in rows)
    assert all(row[field] > 0 for row in rows for field in MASKED_FIELDS - {"gone"})
    # The masks came off: what is left of one would be noise as large as the modulus.
    assert all(row["relative_error"] < 1e-3 for row in rows)
    words, seed, chunks = 7424, 64, 6
    for row in rows:
        survivors = row["hospitals"] - row["gone"]
        sum_bytes, uploads = chunks * (words + survivors * seed), survivors * chunks * (words + seed)
        assert 0 < row["up_bytes_per_parameter"] * 12_000 - chunks * (words + seed) < 2_000
        assert 0 < row["down_bytes"] - row["opening_bytes"] - sum_bytes < 1_500 * (survivors + 1)
        assert 0 < row["verify_bytes"] - uploads < 1_000 * row["hospitals"]
    assert goals["mask_seconds_per_million"] == 0.1
    assert "up bytes per parameter" in printed


@pytest.mark.parametrize("place", ["no/x.json", ".", "file/x.json"])
def test_a_result_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, place: str) -> None:
    """A bench of minutes must not end in a path that was wrong from the start: no folder, a folder, below a file."""
    (tmp_path / "file").write_text("")
    run = run_bench("codec", "--parameters", "12000", "--json", str(tmp_path / place))
    assert run.returncode == 2
    assert "cannot be written" in run.stderr
    assert (run.stderr.count("\n"), run.stdout) == (1, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("counts", ["2", "5,61", "5;10", "", "all"])
def test_counts_that_no_plan_allows_are_refused(counts: str) -> None:
    """Two hospitals have no masks that hide anything; more than sixty no shares."""
    run = run_bench("codec", "--growth", counts)
    assert run.returncode == 2
    assert "--growth" in run.stderr


@pytest.mark.parametrize("option", ["--parameters", "--hospitals", "--repeats"])
def test_impossible_counts_are_refused(option: str) -> None:
    """Nothing to measure is a wrong command line: exit code 2."""
    assert run_bench("codec", option, "0").returncode == 2
