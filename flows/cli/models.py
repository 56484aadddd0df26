"""``terramosaic models``: which there are, their weights, and what a file of weights is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from catalogs.errors import InvalidInputError
from flows.cli.console import EXIT_OK, EXIT_USAGE, Console, subcommand

PATH = click.Path(path_type=Path)


class _DefaultListGroup(click.Group):
    """A group that lists when it is told nothing else to do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultListGroup)
def models() -> None:
    """List models, fetch their weights, and tell what a file of weights is."""


@subcommand(models, "list")
def list_models(console: Console) -> int:
    """List known models: size, purpose, and whether their weights are here."""
    from flows.cli import summary
    from model.cards import catalogue

    return console.run_and_print(
        lambda _: {"models": catalogue.list_models()}, summary.format_models
    )


@subcommand(models, "fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--revision", metavar="R", help="Commit, tag or branch of the hub; else the pinned.")
@click.option("--to", "folder", type=PATH, metavar="DIR", help="Put copies here as well.")
@click.option("--renew", is_flag=True, help="Pin what is there now, whatever was pinned before.")
def fetch_weights(
    console: Console,
    names: tuple[str, ...],
    revision: str | None,
    folder: Path | None,
    renew: bool,
) -> int:
    """Download official weights, or find them here, and pin their digests.

    For a machine without network: fetch --to a folder elsewhere, carry the folder over, and set
    TERRAMOSAIC_WEIGHTS to it.
    """
    for name in names:
        _check_fetchable(name)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"--to {folder} is a file; give a folder.")
    from flows.cli import summary

    def work(watch: Any) -> Mapping[str, Any]:
        from model.weights import hub

        wanted = {hub.OFFICIAL_FILES[name]: name for name in reversed(names)}
        # ^ several names may stand for one file; the first one is told
        watch.stage("fetch", len(wanted))
        rows = []
        for name in reversed(wanted.values()):
            found = hub.fetch(name, revision, renew=renew)
            place = hub.copy_file(name, found.path, folder) if folder else found.path
            rows.append(_fetched_row(name, place, found, revision))
            watch.advance(note=name)
        return {"fetched": rows}

    return console.run_and_print(work, summary.format_fetched_files)


def _fetched_row(name: str, path: Path, weights_file: Any, revision: str | None) -> dict[str, Any]:
    from model.weights import hub

    return {
        "name": name,
        "path": str(path),
        "repo": hub.OFFICIAL_FILES[name].repo,
        "revision": revision or hub.DEFAULT_REVISION,
        "commit": weights_file.pin.commit,
        "sha256": weights_file.pin.sha256,
        "bytes": weights_file.pin.bytes,
        "pinned": "now" if weights_file.new else "before",
    }


@subcommand(models, "check")
@click.argument("what", metavar="NAME|PATH")
@click.option("--as", "name", metavar="NAME", help="The model that it should fit.")
def check_weights(console: Console, what: str, name: str | None) -> int:
    """Tell what a file of weights is, and whether and which model takes it.

    Exit code 2 if it fits none, or not the one that is named.
    """
    from flows.cli import summary
    from model.tools import locate
    from model.weights import hub

    if name is None and what in hub.OFFICIAL_FILES:
        name = what
    path = locate.locate_weights(what, name, suggest=_suggest_name)
    if name is not None:
        _check_model_name(name)

    def work(_: Any) -> Mapping[str, Any]:
        from model.tools import inspect

        return inspect.inspect_file(path, name).to_mapping()

    return console.run_and_print(
        work, summary.format_weights_check, lambda found: EXIT_OK if found["ok"] else EXIT_USAGE
    )


@subcommand(models, "convert")
@click.argument("source", type=PATH, metavar="IN")
@click.argument("target", type=PATH, metavar="OUT.safetensors")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format.")
@click.option("--only", metavar="PART", help="encoder, decoder, head, … alone.")
def convert_weights(
    console: Console, source: Path, target: Path, dtype: str | None, only: str | None
) -> int:
    """Write .pt or .ckpt weights as safetensors, whole or not at all."""
    from flows.cli import summary

    def work(_: Any) -> Mapping[str, Any]:
        from model.tools import convert

        return convert.convert(source, target, dtype, only)

    return console.run_and_print(work, summary.format_conversion)


@subcommand(models, "card")
@click.argument("what", metavar="NAME|PATH")
@click.option("-o", "--output", type=PATH, help="A .md or .json file, instead of the screen.")
def show_card(console: Console, what: str, output: Path | None) -> int:
    """Describe a model: inputs, bands, units, statistics, licence, sources, limits."""
    if output is not None and output.suffix not in (".md", ".json"):
        raise InvalidInputError(f"-o {output}: a card is a .md or a .json file.")
    if output is not None and not output.absolute().parent.is_dir():
        raise InvalidInputError(f"-o {output}: there is no such folder; make it first.")
    from model.cards import markdown, model_card

    def work(_: Any) -> Mapping[str, Any]:
        card = model_card.describe(what, suggest=_suggest_name)
        if output is not None:
            _write_card(output, card)
        return card

    return console.run_and_print(
        work,
        lambda card: markdown.render_markdown(card) if output is None else [f"wrote {output}"],
    )


def _write_card(path: Path, card: Mapping[str, Any]) -> None:
    import json

    from model.cards import markdown
    from pipeline.runtime import atomic_files

    text = (
        json.dumps(card, indent=1, ensure_ascii=False)
        if path.suffix == ".json"
        else "\n".join(markdown.render_markdown(card))
    )
    atomic_files.write_atomic(path, f"{text}\n".encode())


def _check_fetchable(name: str) -> None:
    from model.weights import hub

    if name == "demo":
        raise InvalidInputError("The weights of 'demo' are shipped: there is nothing to fetch.")
    if name not in hub.OFFICIAL_FILES:
        raise InvalidInputError(f"There are no official weights for {name!r}.{_suggest_name(name)}")


def _check_model_name(name: str) -> None:
    from model.weights import hub

    if name not in ("demo", "terratorch", *hub.OFFICIAL_FILES) and not Path(name).is_file():
        raise InvalidInputError(
            f"--as {name}: there is no model of that name.{_suggest_name(name)}"
        )


def _suggest_name(name: str) -> str:
    from flows.config import error_messages
    from model.weights import hub

    return f"{error_messages.suggest_name(name, tuple(hub.OFFICIAL_FILES))} `terramosaic models` lists the names."
