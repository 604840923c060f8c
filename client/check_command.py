"""The command `fedward-client check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.config import load_settings
from common.errors import ConfigError
from common.plan import Plan
from common.site_config import AUTO_COLUMN, load_site


def check(  # noqa: PLR0913 -- one parameter per option
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="This hospital's site file.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Plan or template to check by; default: the site file's plan.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Without a site file: folder of images, or file or folder of rows.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Without a site file: the mapping file; none for class folders.")
    ] = None,
    patient_column: Annotated[
        str, typer.Option(help="Without a site file: column of index.csv that says whose an image is.")
    ] = AUTO_COLUMN,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a page with pictures; default: `check` in the site's state folder, else none."),
    ] = None,
) -> None:
    """Show this site's data as a run will see them: counts, classes, duplicates, contradictions, conversions.

    Nothing leaves this machine. The page holds pictures of patients' data: contact sheets of images, or histograms.
    Of a plan whose network starts from a weights file, the one that the site file names is looked at as well.
    """
    # The site service has this command too: what it reads with is loaded when it reads.
    from client.check import check_site  # noqa: PLC0415
    from client.check_page import write_page  # noqa: PLC0415
    from client.data.source import DataPlace  # noqa: PLC0415
    from client.plan_weights import check_weights, needed_weights  # noqa: PLC0415

    if (config is None) == (data is None):
        raise ConfigError("check: give either --config, or --plan and --data")
    if config is not None:
        site = load_site(config)
        hospital, place, out = site.hospital, DataPlace.of_site(site), out or site.state / "check"
        agreed = load_settings(plan or site.plan, Plan)
    elif plan is not None and data is not None:
        hospital, place = "this hospital", DataPlace(data, mapping, patient_column)
        agreed = load_settings(plan, Plan)
    else:
        raise ConfigError("check: --data needs --plan beside it: the plan says which classes and features there are")
    found = check_site(place, agreed)
    for line in found.lines():
        typer.echo(line)
    if out is not None:
        page = write_page(out, found, place, agreed, hospital=hospital)
        typer.echo(f"page with pictures, for this machine only: {page}")
    # Last: who has still to get the file sees the data all the same.
    if config is not None and needed_weights(agreed) is not None:
        check_weights(agreed, site.weights)
        typer.echo(f"weights: {site.weights} has the plan's digest, and fits its network")
