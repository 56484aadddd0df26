"""The command ``terramosaic``: its subcommands and their options.

Modules that are slow to import are imported by the subcommand that needs them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from catalogs import errors
from flows.cli import exit_codes, signals
from flows.cli.common_options import subcommand
from flows.cli.console import Console, report_interruption, report_usage_error
from flows.cli.exit_codes import EXIT_FAILED, EXIT_NOTHING_FOUND, EXIT_OK
from flows.cli.models import models

if TYPE_CHECKING:
    from flows.config.job import Job

PATH = click.Path(path_type=Path)


PERIOD_OPTION = click.option(
    "--period", metavar="PERIOD", help="Period instead of the job's, as in 2024-05, or latest."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        code = command.main(arguments, prog_name="terramosaic", standalone_mode=False)
    except click.ClickException as error:
        return report_usage_error(error, sys.argv[1:] if arguments is None else arguments)
    except (click.Abort, KeyboardInterrupt):
        return report_interruption()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # ^ the reader of the pipe (`| head`) has ended; the flush at exit would raise again
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_OK


def entry() -> int:
    """Run the command line of this process, with its signal handlers installed."""
    signals.install_signal_handlers()
    return main()


def _print_version(context: click.Context, _: click.Parameter, is_requested: bool) -> None:
    if not is_requested:
        return
    from importlib import metadata

    try:
        click.echo(f"terramosaic {metadata.version('terramosaic')}")
    except metadata.PackageNotFoundError:
        click.echo("terramosaic (not installed, running from source)")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def command() -> None:
    """Map land cover of a region from Sentinel-1 and Sentinel-2 scenes.

    Exit codes: 0 success, 1 tiles failed, the product was refused or another failure, 2 invalid
    command line, job or file, 3 nothing found, 130 interrupted (run the same command again to
    resume).
    """


command.add_command(models)


def _load_job(path: Path) -> Job:
    from flows.config import job

    return job.load(path)


def _check_tile_size(size: int | None) -> None:
    if size is not None and (size <= 0 or size % 16):
        raise errors.InvalidInputError(
            f"--tile-size {size} is not a multiple of 16, the size of the model's patches."
        )


@subcommand(command, "demo")
@click.argument("folder", type=PATH, default=Path("terramosaic-demo"), metavar="[DIR]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the synthetic country.")
@click.option("--size", type=click.IntRange(min=1), metavar="PX",
              help="Side of a scene: 512 to 1536, a multiple of 32.")  # fmt: skip
@click.option("--tile-size", type=int, metavar="PX", help="Side of a tile, a multiple of 16.")
def demo(
    console: Console, folder: Path, seed: int | None, size: int | None, tile_size: int | None
) -> int:
    """Map a synthetic country and measure the accuracy of the map.

    DIR is the folder of scenes, job and product; the default is terramosaic-demo.
    """
    _check_tile_size(tile_size)
    from flows.cli import text_output
    from flows.demo import demo

    return console.run_and_print(
        lambda progress: demo.run(
            folder, seed=seed, size=size, tile_size=tile_size, progress=progress
        ),
        text_output.format_run,
        exit_codes.exit_code_for_run(allow_partial=False),
    )


@subcommand(command, "schema")
def schema(console: Console) -> int:
    """Print the JSON Schema of the job file, for editors."""
    from flows.config import job_schema

    return console.print_document(job_schema.generate_schema())


@subcommand(command, "search")
@click.argument("job", type=PATH)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the tables and a chart of the coverage by date to an HTML file.",
)
@PERIOD_OPTION
def search(console: Console, job: Path, report: Path | None, period: str | None) -> int:
    """List the scenes that a job uses, and why others are left out."""
    loaded = _load_job(job)
    from flows.cli import text_output
    from flows.run import search_report
    from flows.series import latest_period

    return console.run_and_print(
        lambda progress: search_report.search(
            latest_period.with_period(loaded, period, progress), progress, report
        ),
        text_output.format_search,
        lambda result: EXIT_OK if result.used else EXIT_NOTHING_FOUND,
    )


@subcommand(command, "plan")
@click.argument("job", type=PATH)
@click.option(
    "-o", "--output", type=PATH, help="Path of the plan file; by default in the product's folder."
)
@PERIOD_OPTION
def plan(console: Console, job: Path, output: Path | None, period: str | None) -> int:
    """Plan a job: estimate tiles, bytes, memory, time and cost."""
    loaded = _load_job(job)
    from flows.cli import text_output
    from flows.run import stored_plan
    from flows.series import latest_period

    return console.run_and_print(
        lambda progress: stored_plan.make_plan(
            latest_period.with_period(loaded, period, progress), progress, output
        ),
        text_output.format_plan,
    )


@subcommand(command, "run")
@click.argument("job", type=PATH, metavar="JOB|PLAN")
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Publish even if tiles failed; the product lists them. It must not have other holes.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Do not start if the estimated cost exceeds N, in the currency of the job's prices.",
)
@PERIOD_OPTION
def run(
    console: Console, job: Path, allow_partial: bool, max_cost: float | None, period: str | None
) -> int:
    """Run or resume a job or a plan; skip finished tiles."""
    if job.suffix != ".json":
        _load_job(job)
        # ^ an invalid job is reported before the slow imports, and before anything is written
    elif not job.is_file():
        raise errors.InvalidInputError(
            f"There is no plan {job}: check the path, or make it with `plan -o`."
        )
    from flows.cli import text_output
    from flows.orchestration import launch

    return console.run_and_print(
        lambda progress: launch.run_file(
            job,
            allow_partial=allow_partial,
            max_cost=max_cost,
            progress=progress,
            period=period,
        ),
        text_output.format_run,
        exit_codes.exit_code_for_run(allow_partial=allow_partial),
    )


_ORDER_CHOICE = click.Choice(["oldest", "newest"])


@subcommand(command, "backfill")
@click.argument("job", type=PATH)
@click.option("--from", "first", metavar="DAY", help="First day: 2023, 2023-01 or 2023-01-15.")
@click.option("--to", "last", metavar="DAY", help="Last day, inclusive, as in 2024-12.")
@click.option(
    "--cadence", metavar="LENGTH", help="Length of a period: P1M, P1W, P10D, P1Y, season …"
)
@click.option(
    "--order",
    type=_ORDER_CHOICE,
    default="oldest",
    show_default=True,
    help="Which periods are processed first.",
)
@click.option("--at-once", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="Periods to process in parallel.")  # fmt: skip
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Publish even if tiles failed; the product lists them. It must not have other holes.",
)
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="N",
              help="Stop before a period that would raise the total cost above N.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only list the periods and their scenes.")
def backfill(
    console: Console,
    job: Path,
    *,
    first: str | None,
    last: str | None,
    cadence: str | None,
    order: str,
    at_once: int,
    allow_partial: bool,
    max_cost: float | None,
    dry_run: bool,
) -> int:
    """Make one product for each period of a date range.

    Finished periods are skipped.

    The defaults of --from and --cadence are those of the job's schedule; the default of --to is the
    latest period with complete scenes.
    """
    _load_job(job)
    from flows.cli import text_output
    from flows.config.cadence import PeriodRange
    from flows.orchestration import launch
    from flows.series import backfill as backfill_series

    period_range = PeriodRange(
        first=first, last=last, length=cadence, newest_first=order == "newest"
    )
    return console.run_and_print(
        lambda progress: backfill_series.run_backfill(
            job,
            period_range,
            dry_run=dry_run,
            at_once=at_once,
            allow_partial=allow_partial,
            max_cost=max_cost,
            progress=progress,
            run_job=launch.run_job,
        ),
        text_output.format_periods,
        exit_codes.exit_code_for_periods,
    )


@subcommand(command, "refresh")
@click.argument("job", type=PATH)
@click.option("--at-once", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="Periods to process in parallel.")  # fmt: skip
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Publish even if tiles failed; the product lists them. It must not have other holes.",
)
@click.option("--dry-run", is_flag=True, help="Only list outdated periods, and why.")
def refresh(console: Console, job: Path, at_once: int, allow_partial: bool, dry_run: bool) -> int:
    """Recompute finished periods whose scenes, model or job changed.

    Periods with missing tiles are recomputed too. Tiles for which nothing has changed are copied.
    """
    _load_job(job)
    from flows.cli import text_output
    from flows.orchestration import launch
    from flows.series.refresh import run_refresh

    return console.run_and_print(
        lambda progress: run_refresh(
            job,
            dry_run=dry_run,
            at_once=at_once,
            allow_partial=allow_partial,
            progress=progress,
            run_job=launch.run_job,
        ),
        text_output.format_periods,
        exit_codes.exit_code_for_periods,
    )


@subcommand(command, "verify")
@click.argument("out", type=PATH)
def verify(console: Console, out: Path) -> int:
    """Compare a product with its checksums and test it for seams.

    OUT is the output folder of a job, the folder of a product, or its item.json.
    """
    if not out.exists():
        raise errors.InvalidInputError(
            f"There is nothing at {out}: give the output folder, a product folder or its item.json."
        )
    from flows.cli import text_output
    from flows.run import verify

    return console.run_and_print(
        lambda progress: verify.verify(out, progress),
        text_output.format_verification,
        lambda result: EXIT_OK if result.ok else EXIT_FAILED,
    )


@subcommand(command, "deploy")
@click.argument("jobs", type=PATH, nargs=-1, required=True, metavar="JOB…")
@click.option(
    "--pool", default="terramosaic", show_default=True, help="Name of the Prefect work pool."
)
@click.option("--limit", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Concurrent runs per slot (see execution.slot).")  # fmt: skip
@click.option("--paused", is_flag=True, help="Register the schedules as paused.")
def deploy(console: Console, jobs: tuple[Path, ...], pool: str, limit: int, paused: bool) -> int:
    """Register jobs on the Prefect server.

    Each job gets three deployments: land_cover (scheduled), backfill and refresh.
    """
    for job in jobs:
        _load_job(job)
    from flows.cli import text_output
    from flows.orchestration import deployment

    return console.run_and_print(
        lambda progress: deployment.deploy(
            jobs, pool=pool, limit=limit, paused=paused, progress=progress
        ),
        text_output.format_deployments,
    )


def _parse_seeds(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
        raise click.BadParameter(f"{text!r} is not a list of numbers as in 1,2,5-8")
    spans = [[int(end) for end in span.split("-")] for span in text.split(",")]
    if any(span[-1] - span[0] > 10_000 for span in spans):
        raise click.BadParameter(f"{text!r} has more than 10 000 numbers")
    return tuple(seed for span in spans for seed in range(span[0], span[-1] + 1))


@subcommand(command, "train")
@click.argument("job", type=PATH, required=False)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Output folder of weights and card; by default terramosaic-train.",
)
@click.option(
    "--seeds",
    callback=_parse_seeds,
    metavar="LIST",
    help="Seeds of the countries to train on: 1,2,5-8.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Number of optimiser steps.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="M",
    help="Time limit of training.",
)
def train(
    console: Console,
    job: Path | None,
    out: Path | None,
    seeds: tuple[int, ...] | None,
    steps: int | None,
    device: str,
    minutes: float | None,
) -> int:
    """Train the demo model on synthetic countries.

    JOB is a training configuration; the default is that of the weights in this package.
    """
    if job is not None and not job.is_file():
        raise errors.InvalidInputError(f"There is no file {job}: check the path, or leave it out.")
    from flows.cli import model_text_output
    from flows.demo import train

    return console.run_and_print(
        lambda progress: train.run(
            job,
            out=out,
            seeds=seeds,
            steps=steps,
            device=device,
            minutes=minutes,
            progress=progress,
        ),
        model_text_output.format_training,
    )


if __name__ == "__main__":
    sys.exit(entry())
