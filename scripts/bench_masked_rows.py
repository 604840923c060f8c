"""The rows of `fedward bench codec` on masks: each round with all hospitals, and with as many gone as may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from common.plan_bounds import FEWEST_HOSPITALS, default_threshold
from scripts.bench_codecs import declared_sizes, gaussian_updates
from scripts.bench_costs import RoundCosts
from scripts.bench_masks import run_masked_round

# The goals, of which the times hold for five hospitals: per million parameters, and of server and verification for all
# five uploads.
GOALS = {
    "mask_seconds_per_million": 0.10,
    "upload_seconds_per_million": 0.35,
    "add_seconds_per_million": 0.12,
    "verify_seconds_per_million": 0.25,
    "up_bytes_per_parameter": 3.8,
}
GOAL_HOSPITALS = 5


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One masked round; seconds are CPU seconds, the least of the repeats.

    Args:
        hospitals: In the opening.
        gone: Of them, those whose upload did not arrive; their masks are recovered.
        parameters: Length of an update.
        up_bytes_per_parameter: Upload of one hospital, with its manifest.
        down_bytes: The next round's request to one hospital: opening and sum.
        opening_bytes: Of these, the opening.
        verify_bytes: What full verification adds to that request: transcript and uploads.
        unmask_bytes: Request and reveal of one hospital.
        mask_seconds_per_million: One hospital's masks.
        upload_seconds_per_million: One hospital's encoding, encryption, masks and packing.
        add_seconds_per_million: Admitting and adding all uploads.
        unmask_seconds_per_million: Combining the shares, taking all masks off and packing the sum.
        verify_seconds_per_million: One hospital's checks of manifests and sum, and its recomputation.
        advert_seconds: One hospital makes secrets, shares, boxes and advert.
        opening_seconds: One hospital checks an opening.
        reveal_seconds: One hospital checks the survivors and opens its shares of all.
        read_adverts_seconds: The coordinator checks all adverts.
        take_shares_seconds: The coordinator checks all reveals.
        combine_seconds: The coordinator combines the shares.
        relative_error: Of the decrypted mean.
        add_peak_bytes: The most that admitting and adding one upload held beside reply and sum.
        unmask_peak_bytes: The same of unmasking.
        verify_peak_bytes: The most that recomputation held beside request and decoded sum.
    """

    hospitals: int
    gone: int
    parameters: int
    up_bytes_per_parameter: float
    down_bytes: int
    opening_bytes: int
    verify_bytes: int
    unmask_bytes: int
    mask_seconds_per_million: float
    upload_seconds_per_million: float
    add_seconds_per_million: float
    unmask_seconds_per_million: float
    verify_seconds_per_million: float
    advert_seconds: float
    opening_seconds: float
    reveal_seconds: float
    read_adverts_seconds: float
    take_shares_seconds: float
    combine_seconds: float
    relative_error: float
    add_peak_bytes: int
    unmask_peak_bytes: int
    verify_peak_bytes: int


def masked_rows(hospitals: int, parameters: int, *, repeats: int) -> list[MaskedRow]:
    """Measure a round with all hospitals and one with n - t of them gone, `repeats` times each; none below three."""
    if hospitals < FEWEST_HOSPITALS:
        return []
    sizes = declared_sizes(hospitals)
    updates = gaussian_updates(parameters, hospitals)
    # Memory hardly depends on who is gone, and tracing it is slow.
    peaks = run_masked_round(updates, sizes, trace_memory=True).peak_bytes
    rows = []
    for gone in sorted({0, hospitals - default_threshold(hospitals)}):
        rounds = [run_masked_round(updates, sizes, gone=gone) for _ in range(repeats)]
        rows.append(_row(rounds, peaks, shape=(hospitals, gone, parameters)))
    return rows


def _row(rounds: Sequence[RoundCosts], peaks: dict[str, int], *, shape: tuple[int, int, int]) -> MaskedRow:
    hospitals, gone, parameters = shape
    millions, sent = parameters / 1e6, rounds[0].message_bytes

    def site(*steps: str) -> float:
        return min(one.hospital(*steps) for one in rounds)

    def server(step: str) -> float:
        return min(one.server_s[step] for one in rounds)

    return MaskedRow(
        hospitals=hospitals,
        gone=gone,
        parameters=parameters,
        up_bytes_per_parameter=sent["up"] / parameters,
        down_bytes=sent["down"],
        opening_bytes=sent["opening"],
        verify_bytes=sent["verify"],
        unmask_bytes=sent["unmask_down"] + sent["unmask_up"],
        mask_seconds_per_million=site("mask") / millions,
        upload_seconds_per_million=site("upload") / millions,
        add_seconds_per_million=server("add") / millions,
        unmask_seconds_per_million=server("unmask") / millions,
        verify_seconds_per_million=site("verify_sum", "verify") / millions,
        advert_seconds=site("advert"),
        opening_seconds=site("opening"),
        reveal_seconds=site("reveal"),
        read_adverts_seconds=server("read_adverts"),
        take_shares_seconds=server("take_shares"),
        combine_seconds=server("combine"),
        relative_error=max(one.relative_error for one in rounds),
        add_peak_bytes=peaks["add"],
        unmask_peak_bytes=peaks["unmask"],
        verify_peak_bytes=peaks["verify"],
    )


def masked_tables(rows: Sequence[MaskedRow]) -> list[Table]:
    """The goals beside the figures of the first round of five, then how cost grows with the hospitals."""
    first = next((row for row in rows if row.hospitals == GOAL_HOSPITALS), None)
    tables = [] if first is None else [_goal_table(first)]
    return [*tables, _bulk_table(rows), _document_table(rows)] if rows else []


def _goal_table(row: MaskedRow) -> Table:
    table = Table(title=f"goals, {row.hospitals} hospitals of {row.parameters:,} parameters", box=box.SIMPLE_HEAD)
    for heading in ("", "seen", "goal", "of it", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, goal in GOALS.items():
        seen = float(getattr(row, name))
        words = name.replace("_", " ").replace("seconds", "CPU s")
        table.add_row(words, f"{seen:.3g}", f"{goal:g}", f"{seen / goal:.0%}", "met" if seen <= goal else "missed")
    return table


def _bulk_table(rows: Sequence[MaskedRow]) -> Table:
    table = Table(
        title="masked rounds: CPU seconds per million parameters",
        caption="mask, upload and verify of one hospital; add and unmask of the coordinator for all; "
        "n hospitals, of whom some are gone; peaks in MB beside what came in",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings = (
        "n",
        "gone",
        "size",
        "mask",
        "upload",
        "add",
        "unmask",
        "verify",
        "down\nMB",
        "verify\nMB",
    )
    for heading in (*headings, "add\npeak", "verify\npeak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds = (
            row.mask_seconds_per_million,
            row.upload_seconds_per_million,
            row.add_seconds_per_million,
            row.unmask_seconds_per_million,
            row.verify_seconds_per_million,
        )
        sizes = (row.down_bytes, row.verify_bytes, row.add_peak_bytes, row.verify_peak_bytes)
        table.add_row(
            str(row.hospitals),
            str(row.gone),
            f"{row.parameters / 1e6:g}M",
            *(f"{one:.3f}" for one in seconds),
            *(f"{one / 1e6:.2f}" for one in sizes),
        )
    return table


def _document_table(rows: Sequence[MaskedRow]) -> Table:
    table = Table(
        title="masked rounds: what does not grow with the model, CPU milliseconds per round",
        caption="advert, opening and reveal of one hospital; the others of the coordinator for all",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings = ("n", "gone", "advert", "opening", "reveal", "read\nadverts", "take\nshares", "combine")
    for heading in (*headings, "opening\nkB", "unmask\nkB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds = (
            row.advert_seconds,
            row.opening_seconds,
            row.reveal_seconds,
            row.read_adverts_seconds,
            row.take_shares_seconds,
            row.combine_seconds,
        )
        table.add_row(
            str(row.hospitals),
            str(row.gone),
            *(f"{1e3 * one:.1f}" for one in seconds),
            f"{row.opening_bytes / 1e3:.1f}",
            f"{row.unmask_bytes / 1e3:.1f}",
        )
    return table
