"""The command `fedward`: demo, split, provision, evaluate, predict, bench, attack."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from common.command import run_command
from common.errors import OperatorError
from scripts.attack import attack
from scripts.bench import bench_app
from scripts.change_hospitals import join, revoke
from scripts.provision_command import provision
from scripts.report_file import require_writable, write_json
from scripts.score_commands import evaluate, predict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Reflows the paragraphs of docstrings.
    rich_markup_mode="markdown",
    help="Train one model at several hospitals; patients' data, updates and keys stay where they belong.",
)


def main() -> None:
    """Entry point of `fedward`."""
    run_command(app)


@app.command()
def demo(  # noqa: PLR0913 -- one parameter per option
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Image folder: `Train/<class>/*.jpg` or `<class>/*.jpg`. For a plan on rows: their file or folder. "
            "Without it patients are drawn. `embedded:breast`, `embedded:ancestry`: real tables that packages bring."
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="For a plan on rows: the file that maps the columns of --data to the plan's.")
    ] = None,
    sites: Annotated[
        Path | None,
        typer.Option(
            help="Instead of dealing one data set: a file that says what each hospital holds, in which form. Paths in "
            "it start from --data, or from its folder."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights file that the plan's network starts from, if it does.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Plan to run. Default: skin9 with --data, or that of its table, else the small demo plan."),
    ] = None,
    hospitals: Annotated[
        int | None, typer.Option(min=3, max=50, help="Number of hospitals that the data are dealt to; 5.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Training rounds, instead of the plan's.")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Privacy budget per patient (per lesion or image where no patients are named), instead of the plan's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the projection; never of noise.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for keys, shards and ledgers; kept. A second demo there runs the same hospitals again."
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Where the results folder is made.")] = Path("fedward-results"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary work folder.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Run a whole federation on this machine: one coordinator, several hospitals, each in processes of its own."""
    if sites is not None and (hospitals is not None or mapping is not None):
        raise OperatorError("--sites: names the hospitals and their mappings; leave out --hospitals and --mapping")
    require_writable(json_file)
    # torch and the like load only for the commands that need them.
    from scripts.demo import run_demo  # noqa: PLC0415
    from scripts.demo_options import DemoOptions, default_plan  # noqa: PLC0415
    from scripts.demo_results import print_report  # noqa: PLC0415

    with as_file(files("configs") / "plans" / default_plan(data)) as default:
        report = run_demo(
            DemoOptions(
                data=data,
                mapping=mapping,
                sites=sites,
                weights=weights,
                plan=plan or default,
                hospitals=hospitals,
                rounds=rounds,
                epsilon=epsilon,
                seed=seed,
                work=work,
                results=results,
                keep=keep,
            )
        )
    print_report(report, Console())
    write_json(json_file, report)


@app.command()
def split(  # noqa: PLR0913 -- one parameter per option
    *,
    source: Annotated[
        Path,
        typer.Argument(help="Image folder: `Train/<class>/*.jpg` or `<class>/*.jpg`. With --mapping: what it maps."),
    ],
    out: Annotated[
        Path, typer.Option(help="New folder; gets `hospital-1/data/<class>/` and so on, or `sites.yaml` and parts.")
    ],
    plan: Annotated[Path | None, typer.Option(help="With --mapping: the plan that declares the data.")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="For rows, and for images that an index lists: the file that maps them to the plan."),
    ] = None,
    hospitals: Annotated[int, typer.Option(min=1, max=1000, help="Number of parts.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the dealing.")] = 0,
    refuse_unreadable: Annotated[
        bool,
        typer.Option("--refuse-unreadable", help="Stop at an image that cannot be decoded, instead of skipping it."),
    ] = False,
) -> None:
    """Deal every class of an image folder, of listed images or of a table in equal parts to several hospitals.

    All images of a patient go to one hospital, where an index.csv beside the folders has a column patient_id, or all
    of a lesion, where it has lesion ids. All rows of a patient go to one hospital as well. Nothing is overwritten: the
    new folder appears whole or not at all.
    """
    if (plan is None) != (mapping is None):
        raise OperatorError(
            "split: rows and images of a mapping need both --plan and --mapping, class folders without one neither"
        )
    if plan is not None and refuse_unreadable:
        raise OperatorError("--refuse-unreadable: with --plan its unreadable_images decides; leave the option out")
    if plan is not None:
        from client.data.source import DataPlace  # noqa: PLC0415
        from scripts.split_command import split_mapped  # noqa: PLC0415

        split_mapped(DataPlace(source, mapping, named_by="SOURCE"), out, plan=plan, hospitals=hospitals, seed=seed)
        return
    from scripts.split import split_dataset  # noqa: PLC0415

    handling: Literal["skip", "refuse"] = "refuse" if refuse_unreadable else "skip"
    report = split_dataset(source, out, hospitals=hospitals, seed=seed, on_undecodable=handling)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for share in report.shares:
        typer.echo(
            f"{share.name}: {sum(share.images)} images of {sum(share.units)} {report.unit_name}s in {share.data}"
        )


app.command()(provision)
app.command()(evaluate)
app.command()(predict)
app.command()(join)
app.command()(revoke)
app.command()(attack)
app.add_typer(bench_app, name="bench")
