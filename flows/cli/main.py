"""The command ``terramosaic``: its verbs, and what each of them takes.

Nothing heavy is imported before a verb runs: ``--help`` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from catalogs import errors
from flows.cli import console
from flows.cli.console import (
    EXIT_FAILED,
    EXIT_NOTHING_FOUND,
    EXIT_OK,
    Console,
    ExitCodeFunction,
    Result,
    report_interruption,
    report_usage_error,
    subcommand,
)
from flows.cli.models import models

PATH = click.Path(path_type=Path)


PERIOD_OPTION = click.option(
    "--period", metavar="PERIOD", help="Another one than the job's: 2024-05, or latest."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; the process is left to the caller."""
    try:
        code = command.main(arguments, prog_name="terramosaic", standalone_mode=False)
    except click.ClickException as error:
        return report_usage_error(error, sys.argv[1:] if arguments is None else arguments)
    except (click.Abort, KeyboardInterrupt):
        return report_interruption()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # ^ `| head` has gone; Python would complain once more when it flushes at exit
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_OK


def entry() -> int:
    """Run this process's command line; signals end it, and soon, whatever it waits for."""
    console.install_signal_handlers()
    return main()


def _print_version(context: click.Context, _: click.Parameter, is_requested: bool) -> None:
    if not is_requested:
        return
    from importlib import metadata

    try:
        click.echo(f"terramosaic {metadata.version('terramosaic')}")
    except metadata.PackageNotFoundError:
        click.echo("terramosaic (not installed: running from its source folder)")
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
    """Map land cover from Sentinel-1 and Sentinel-2, resumably and wall to wall.

    Exit codes: 0 done, 1 some tile failed or a gate refused, 2 the request is wrong, 3 nothing
    found, 130 interrupted (run the same command again to resume).
    """


command.add_command(models)


def _load_job(path: Path) -> Any:
    from flows.config import job

    return job.load(path)


def _exit_code_for_run(allow_partial: bool) -> ExitCodeFunction:
    def judge(result: Result) -> int:
        declared = allow_partial and result["status"] == "partial" and result["item"]
        return EXIT_OK if result["status"] in ("complete", "unchanged") or declared else EXIT_FAILED

    return judge


def _check_tile_size(size: int | None) -> None:
    if size is not None and (size <= 0 or size % 16):
        raise errors.InvalidInputError(
            f"--tile-size {size} is not a multiple of 16, a model's patch."
        )


@subcommand(command, "demo")
@click.argument("folder", type=PATH, default=Path("terramosaic-demo"), metavar="[DIR]")
@click.option("--seed", type=click.IntRange(min=0), help="Another country than the shipped one.")
@click.option("--size", type=click.IntRange(min=1), metavar="PX", help="Side of a granule.")
@click.option("--tile-size", type=int, metavar="PX", help="Side of a tile, a multiple of 16.")
def demo(
    console: Console, folder: Path, seed: int | None, size: int | None, tile_size: int | None
) -> int:
    """Make the embedded country, map it, and compare the map with the truth."""
    _check_tile_size(tile_size)
    from flows.cli import summary
    from flows.demo import demo

    return console.run_and_print(
        lambda watch: demo.run(
            folder, seed=seed, size=size, tile_size=tile_size, progress=watch
        ).to_dict(),
        summary.format_run,
        _exit_code_for_run(allow_partial=False),
    )


@subcommand(command, "search")
@click.argument("job", type=PATH)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page (HTML) with the tables and a picture of the coverage by date.",
)
@PERIOD_OPTION
def search(console: Console, job: Path, report: Path | None, period: str | None) -> int:
    """List the scenes of a job, what they cover, and what is left out and why."""
    loaded = _load_job(job)
    from flows.cli import summary
    from flows.run import search
    from flows.series import latest

    return console.run_and_print(
        lambda watch: search.search(
            latest.with_period(loaded, period, watch), watch, report
        ).to_dict(),
        summary.format_search,
        lambda result: EXIT_OK if result["used"] else EXIT_NOTHING_FOUND,
    )


@subcommand(command, "plan")
@click.argument("job", type=PATH)
@click.option("-o", "--output", type=PATH, help="Where the plan is written.")
@PERIOD_OPTION
def plan(console: Console, job: Path, output: Path | None, period: str | None) -> int:
    """Freeze what a job would do: tiles, scenes, bytes, memory, time."""
    loaded = _load_job(job)
    from flows.cli import summary
    from flows.run import plans
    from flows.series import latest

    return console.run_and_print(
        lambda watch: plans.make_plan(
            latest.with_period(loaded, period, watch), watch, output
        ).to_dict(),
        summary.format_plan,
    )


@subcommand(command, "run")
@click.argument("job", type=PATH, metavar="JOB|PLAN")
@click.option("--allow-partial", is_flag=True, help="Publish with failed tiles declared as holes.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="N", help="Refuse above this.")
@PERIOD_OPTION
def run(
    console: Console, job: Path, allow_partial: bool, max_cost: float | None, period: str | None
) -> int:
    """Run or resume a job or a plan; what is finished is not computed again."""
    if job.suffix != ".json":
        _load_job(job)
        # ^ a wrong job is refused before the slow imports, and before anything is written
    elif not job.is_file():
        raise errors.InvalidInputError(
            f"There is no plan {job}: check the path, or make it with `plan -o`."
        )
    from flows.cli import summary
    from flows.orchestration import launch

    return console.run_and_print(
        lambda watch: launch.run_file(
            job,
            allow_partial=allow_partial,
            max_cost=max_cost,
            progress=watch,
            period=period,
        ).to_dict(),
        summary.format_run,
        _exit_code_for_run(allow_partial),
    )


_ORDER_CHOICE = click.Choice(["oldest", "newest"])


@subcommand(command, "backfill")
@click.argument("job", type=PATH)
@click.option("--from", "first", metavar="DAY", help="First day: 2023, 2023-01 or 2023-01-15.")
@click.option("--to", "last", metavar="DAY", help="Last day, inclusive, as in 2024-12.")
@click.option("--cadence", metavar="LENGTH", help="P1M, P1W, P10D, P1Y, season …")
@click.option(
    "--order", type=_ORDER_CHOICE, default="oldest", show_default=True, help="Which come first."
)
@click.option("--at-once", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="Periods side by side.")  # fmt: skip
@click.option("--allow-partial", is_flag=True, help="Publish with failed tiles declared as holes.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="N",
              help="Refuse what costs more, all periods together.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only list the periods, and what there is for them.")
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
    """Make one product per period of a range; finished periods are skipped.

    What --from, --to and --cadence leave open, the job's schedule says; without --to, all periods
    whose scenes are there.
    """
    _load_job(job)
    from flows.cli import summary
    from flows.config.cadence import PeriodRange
    from flows.orchestration import launch
    from flows.series import backfill as backfill_series

    newest = order == "newest"
    wanted = PeriodRange(first=first, last=last, length=cadence, newest_first=newest)
    return console.run_and_print(
        lambda watch: backfill_series.run_backfill(
            job,
            wanted,
            dry_run=dry_run,
            at_once=at_once,
            allow_partial=allow_partial,
            max_cost=max_cost,
            progress=watch,
            run_job=launch.run_job,
        ).to_dict(),
        summary.format_periods,
        _exit_code_for_periods,
    )


@subcommand(command, "refresh")
@click.argument("job", type=PATH)
@click.option("--at-once", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="Periods side by side.")  # fmt: skip
@click.option("--allow-partial", is_flag=True, help="Publish with failed tiles declared as holes.")
@click.option("--dry-run", is_flag=True, help="Only list what is no longer up to date, and why.")
def refresh(console: Console, job: Path, at_once: int, allow_partial: bool, dry_run: bool) -> int:
    """Make finished periods anew that have newer scenes or a newer model: only what changed."""
    _load_job(job)
    from flows.cli import summary
    from flows.orchestration import launch
    from flows.series import backfill as backfill_series

    return console.run_and_print(
        lambda watch: backfill_series.run_refresh(
            job,
            dry_run=dry_run,
            at_once=at_once,
            allow_partial=allow_partial,
            progress=watch,
            run_job=launch.run_job,
        ).to_dict(),
        summary.format_periods,
        _exit_code_for_periods,
    )


def _exit_code_for_periods(result: Result) -> int:
    told = {entry["status"] for entry in result["periods"]}
    if told & {"failed", "refused", "busy"}:
        return EXIT_FAILED
    return EXIT_NOTHING_FOUND if told <= {"gap"} else EXIT_OK


@subcommand(command, "verify")
@click.argument("out", type=PATH)
def verify(console: Console, out: Path) -> int:
    """Compare every stored byte with its receipt."""
    if not out.exists():
        raise errors.InvalidInputError(
            f"There is nothing at {out}: give the output folder, a product folder or its item.json."
        )
    from flows.cli import summary
    from flows.run import verify

    return console.run_and_print(
        lambda watch: verify.verify(out, watch).to_dict(),
        summary.format_verification,
        lambda result: EXIT_OK if result["ok"] else EXIT_FAILED,
    )


@subcommand(command, "deploy")
@click.argument("jobs", type=PATH, nargs=-1, required=True, metavar="JOB…")
@click.option("--pool", default="terramosaic", show_default=True, help="Work pool of the workers.")
@click.option("--limit", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Runs at a time on one slot, as that of a GPU.")  # fmt: skip
@click.option("--paused", is_flag=True, help="Register schedules that do not fire yet.")
def deploy(console: Console, jobs: tuple[Path, ...], pool: str, limit: int, paused: bool) -> int:
    """Register jobs on the Prefect server: schedule, backfill and refresh of each."""
    for job in jobs:
        _load_job(job)
    from flows.cli import summary
    from flows.orchestration import deployment

    return console.run_and_print(
        lambda watch: deployment.deploy(
            jobs, pool=pool, limit=limit, paused=paused, progress=watch
        ).to_dict(),
        summary.format_deployments,
    )


def _parse_seeds(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
        raise click.BadParameter(f"{text!r} is not a list as in 1,2,5-8")
    spans = [[int(end) for end in span.split("-")] for span in text.split(",")]
    if any(span[-1] - span[0] > 10_000 for span in spans):
        raise click.BadParameter(f"{text!r} is too long a list")
    return tuple(seed for span in spans for seed in range(span[0], span[-1] + 1))


@subcommand(command, "train")
@click.argument("job", type=PATH, required=False)
@click.option("--out", type=PATH, metavar="DIR", help="Where weights and card are written.")
@click.option(
    "--seeds", callback=_parse_seeds, metavar="LIST", help="Countries to learn from: 1,2,5-8."
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Optimiser steps.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), metavar="M", help="Stop by then."
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
    """Train the small model on demo countries; without a job, by the shipped recipe."""
    if job is not None and not job.is_file():
        raise errors.InvalidInputError(f"There is no file {job}: check the path, or leave it out.")
    from flows.cli import summary
    from flows.demo import train

    return console.run_and_print(
        lambda watch: train.run(
            job,
            out=out,
            seeds=seeds,
            steps=steps,
            device=device,
            minutes=minutes,
            progress=watch,
        ),
        summary.format_mapping,
    )


if __name__ == "__main__":
    sys.exit(entry())
