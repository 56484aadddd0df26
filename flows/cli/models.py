"""``terramosaic models``: list models, and fetch, check, convert and describe weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from catalogs.errors import InvalidInputError
from flows.cli.common_options import subcommand
from flows.cli.console import Console
from flows.cli.exit_codes import EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    from flows.observe.progress import Progress
    from flows.run.command_results import Result
    from flows.run.model_results import CheckResult, ConvertResult, FetchResult, ListResult
    from model.tools.model_card import ModelDescription
    from model.tools.model_list import ListedModel

PATH = click.Path(path_type=Path)

Record = TypeVar("Record")


class _DefaultListGroup(click.Group):
    """Command group whose default subcommand is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultListGroup)
def models() -> None:
    """List, fetch, check, convert and describe models."""


@dataclass(frozen=True, slots=True)
class _Printable(Generic[Record]):
    """A record that is formatted as it is, and becomes a result only where JSON is wanted."""

    record: Record
    build_result: Callable[[Record], Result]

    def to_dict(self) -> dict[str, Any]:
        return self.build_result(self.record).to_dict()


@subcommand(models, "list")
def list_models(console: Console) -> int:
    """List known models and where their weights are."""
    from flows.cli import model_text_output
    from model.tools import model_list

    return console.run_and_print(
        lambda _: _Printable(model_list.list_models(), _build_list_result),
        lambda printable: model_text_output.format_models(printable.record),
    )


def _build_list_result(models: list[ListedModel]) -> ListResult:
    from flows.run import model_results

    # ^ imports pydantic, which takes longer than the list
    return model_results.ListResult.from_models(models)


@subcommand(models, "fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--revision", metavar="R", help="Commit, tag or branch on the hub; default: the pinned commit."
)
@click.option(
    "--to", "folder", type=PATH, metavar="DIR", help="Also copy the files to this folder."
)
@click.option(
    "--renew", is_flag=True, help="Replace the pinned commit and checksum by the current ones."
)
def fetch_weights(
    console: Console,
    names: tuple[str, ...],
    revision: str | None,
    folder: Path | None,
    renew: bool,
) -> int:
    """Download official weights and pin their checksums.

    For a machine without network: run fetch --to DIR elsewhere, copy DIR to that machine, and set
    TERRAMOSAIC_WEIGHTS to it.
    """
    for name in names:
        _check_fetchable(name)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"--to {folder} is a file: give a folder.")
    from flows.cli import model_text_output

    def work(progress: Progress) -> FetchResult:
        from flows.run import model_results
        from model.weights import hub

        name_by_file = {hub.OFFICIAL_FILES[name]: name for name in reversed(names)}
        # ^ several names may share one file, which is reported under the first of them
        progress.start_stage("fetch", len(name_by_file))
        entries = []
        for name in reversed(name_by_file.values()):
            weights_file = hub.fetch(name, revision, renew=renew)
            path = weights_file.path
            if folder is not None:
                path = hub.copy_file(name, path, folder)
            entries.append(
                model_results.FetchedFileEntry.from_file(
                    weights_file,
                    name=name,
                    path=path,
                    repo=hub.OFFICIAL_FILES[name].repo,
                    revision=revision or hub.DEFAULT_REVISION,
                )
            )
            progress.advance(note=name)
        return model_results.FetchResult(fetched=tuple(entries))

    return console.run_and_print(work, model_text_output.format_fetched_files)


@subcommand(models, "check")
@click.argument("name_or_path", metavar="NAME|PATH")
@click.option("--as", "name", metavar="NAME", help="Model that the weights should fit.")
def check_weights(console: Console, name_or_path: str, name: str | None) -> int:
    """Identify a weights file and the models that it fits.

    Exit code 2 if it fits none, or not the model named with --as.
    """
    from flows.cli import model_text_output
    from model.tools import locate
    from model.weights import hub

    if name is None and name_or_path in hub.OFFICIAL_FILES:
        name = name_or_path
    path = locate.locate_weights(name_or_path, name, suggest=_suggest_name)
    if name is not None:
        _check_model_name(name)

    def work(_: Progress) -> CheckResult:
        from flows.run import model_results
        from model.tools import weights_check

        return model_results.CheckResult.from_inspection(weights_check.inspect_file(path, name))

    return console.run_and_print(
        work,
        model_text_output.format_weights_check,
        lambda result: EXIT_OK if result.ok else EXIT_USAGE,
    )


@subcommand(models, "convert")
@click.argument("source", type=PATH, metavar="IN")
@click.argument("target", type=PATH, metavar="OUT.safetensors")
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Data type of the output."
)
@click.option("--only", metavar="PART", help="Only one part: encoder, decoder, head …")
def convert_weights(
    console: Console, source: Path, target: Path, dtype: str | None, only: str | None
) -> int:
    """Convert .pt or .ckpt weights to safetensors."""
    from flows.cli import model_text_output

    def work(_: Progress) -> ConvertResult:
        from flows.run import model_results
        from model.tools import convert

        return model_results.ConvertResult.from_file(convert.convert(source, target, dtype, only))

    return console.run_and_print(work, model_text_output.format_conversion)


@subcommand(models, "card")
@click.argument("name_or_path", metavar="NAME|PATH")
@click.option("-o", "--output", type=PATH, help="Write to this .md or .json file.")
def show_card(console: Console, name_or_path: str, output: Path | None) -> int:
    """Describe a model: inputs, statistics, licence, limits."""
    if output is not None and output.suffix not in (".md", ".json"):
        raise InvalidInputError(f"-o {output}: name a .md or a .json file.")
    if output is not None and not output.absolute().parent.is_dir():
        raise InvalidInputError(f"-o {output}: its folder does not exist: create it first.")
    from flows.run import model_results
    from model.tools import card_markdown, model_card

    def work(_: Progress) -> _Printable[ModelDescription]:
        description = model_card.describe(name_or_path, suggest=_suggest_name)
        if output is not None:
            _write_card(output, description)
        return _Printable(description, model_results.CardResult.from_description)

    return console.run_and_print(
        work,
        lambda printable: (
            card_markdown.render_markdown(printable.record)
            if output is None
            else [f"wrote {output}"]
        ),
    )


def _write_card(path: Path, description: ModelDescription) -> None:
    import json

    from flows.run import model_results
    from model.tools import card_markdown
    from pipeline.runtime import atomic_files

    text = (
        json.dumps(
            model_results.CardResult.from_description(description).to_dict(),
            indent=1,
            ensure_ascii=False,
        )
        if path.suffix == ".json"
        else "\n".join(card_markdown.render_markdown(description))
    )
    atomic_files.write_atomic(path, f"{text}\n".encode())


def _check_fetchable(name: str) -> None:
    from model.weights import hub

    if name == "demo":
        raise InvalidInputError(
            "The weights of 'demo' are part of the package: there is nothing to fetch."
        )
    if name not in hub.OFFICIAL_FILES:
        raise InvalidInputError(f"There are no official weights for {name!r}.{_suggest_name(name)}")


def _check_model_name(name: str) -> None:
    from model.weights import hub

    if name not in ("demo", "terratorch", *hub.OFFICIAL_FILES) and not Path(name).is_file():
        raise InvalidInputError(
            f"--as {name}: there is no model of that name.{_suggest_name(name)}"
        )


def _suggest_name(name: str) -> str:
    from flows.config import validation_messages
    from model.weights import hub

    suggestion = validation_messages.suggest_name(name, tuple(hub.OFFICIAL_FILES))
    return f"{suggestion} `terramosaic models` lists the names."
