"""``terramosaic models``: which there are, their weights, and what a file of weights is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from catalogs.errors import Wrong
from flows.cli.console import DONE, USAGE, Console, verb

PATH = click.Path(path_type=Path)


class _Listing(click.Group):
    """A group that lists when it is told nothing else to do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Listing)
def models() -> None:
    """List models, fetch their weights, and tell what a file of weights is."""


@verb(models, "list")
def models_list(console: Console) -> int:
    """List known models: size, purpose, and whether their weights are here."""
    from flows.cli import summary
    from model.cards import catalogue

    return console.show(lambda _: {"models": catalogue.rows()}, summary.models)


@verb(models, "fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--revision", metavar="R", help="Commit, tag or branch of the hub; else the pinned.")
@click.option("--to", "folder", type=PATH, metavar="DIR", help="Put copies here as well.")
@click.option("--renew", is_flag=True, help="Pin what is there now, whatever was pinned before.")
def models_fetch(
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
        _check_official(name)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise Wrong(f"--to {folder} is a file; give a folder.")
    from flows.cli import summary

    def work(watch: Any) -> Mapping[str, Any]:
        from model.weights import hub

        wanted = {hub.HUB[name]: name for name in reversed(names)}
        # ^ several names may stand for one file; the first one is told
        watch.stage("fetch", len(wanted))
        rows = []
        for name in reversed(wanted.values()):
            found = hub.fetch(name, revision, renew=renew)
            place = hub.copy(name, found.path, folder) if folder else found.path
            rows.append(_fetched(name, place, found, revision))
            watch.advance(note=name)
        return {"fetched": rows}

    return console.show(work, summary.fetched)


def _fetched(name: str, place: Path, found: Any, revision: str | None) -> dict[str, Any]:
    from model.weights import hub

    return {
        "name": name,
        "path": str(place),
        "repo": hub.HUB[name].repo,
        "revision": revision or hub.LATEST,
        "commit": found.pin.commit,
        "sha256": found.pin.sha256,
        "bytes": found.pin.bytes,
        "pinned": "now" if found.new else "before",
    }


@verb(models, "check")
@click.argument("what", metavar="NAME|PATH")
@click.option("--as", "name", metavar="NAME", help="The model that it should fit.")
def models_check(console: Console, what: str, name: str | None) -> int:
    """Tell what a file of weights is, and whether and which model takes it.

    Exit code 2 if it fits none, or not the one that is named.
    """
    from flows.cli import summary
    from model.weights import hub

    if name is None and what in hub.HUB:
        name = what
    path = _located(what, name)
    if name is not None:
        _check_known(name)

    def work(_: Any) -> Mapping[str, Any]:
        from model.tools import inspect

        return inspect.check(path, name).to_mapping()

    return console.show(work, summary.checked, lambda found: DONE if found["ok"] else USAGE)


@verb(models, "convert")
@click.argument("source", type=PATH, metavar="IN")
@click.argument("target", type=PATH, metavar="OUT.safetensors")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format.")
@click.option("--only", metavar="PART", help="encoder, decoder, head, … alone.")
def models_convert(
    console: Console, source: Path, target: Path, dtype: str | None, only: str | None
) -> int:
    """Write .pt or .ckpt weights as safetensors, whole or not at all."""
    from flows.cli import summary

    def work(_: Any) -> Mapping[str, Any]:
        from model.tools import convert

        return convert.convert(source, target, dtype, only)

    return console.show(work, summary.converted)


@verb(models, "card")
@click.argument("what", metavar="NAME|PATH")
@click.option("-o", "--output", type=PATH, help="A .md or .json file, instead of the screen.")
def models_card(console: Console, what: str, output: Path | None) -> int:
    """Describe a model: inputs, bands, units, statistics, licence, sources, limits."""
    if output is not None and output.suffix not in (".md", ".json"):
        raise Wrong(f"-o {output}: a card is a .md or a .json file.")
    if output is not None and not output.absolute().parent.is_dir():
        raise Wrong(f"-o {output}: there is no such folder; make it first.")
    from model.cards import model_card

    def work(_: Any) -> Mapping[str, Any]:
        card = _card(what)
        if output is not None:
            _write(output, card)
        return card

    return console.show(
        work, lambda card: model_card.markdown(card) if output is None else [f"wrote {output}"]
    )


def _card(what: str) -> dict[str, Any]:
    from model.cards import model_card
    from model.terramind import config
    from model.weights import hub

    if what in hub.HUB or what in ("demo", "none"):
        return model_card.of_name(what)
    path = _located(what, None)
    if path.suffix != ".json" and not config.is_file_name(path):
        return model_card.of_file(path)
    return model_card.of_card(path)


def _write(path: Path, card: Mapping[str, Any]) -> None:
    import json

    from model.cards import model_card
    from pipeline.runtime import atomic_files

    text = (
        json.dumps(card, indent=1, ensure_ascii=False)
        if path.suffix == ".json"
        else "\n".join(model_card.markdown(card))
    )
    atomic_files.write_atomic(path, f"{text}\n".encode())


def _located(what: str, name: str | None) -> Path:
    """Return the file that is meant: a path, the file in a folder, or that of a known model."""
    if not what.strip():
        raise Wrong("The name is empty: give a model's name, or the path of a file.")
    if what == "demo":
        from model.predictor import registry

        return registry.DEMO_CARD.with_name("weights.safetensors")
        # ^ a name goes before a folder of that name, which `make demo` leaves: write ./demo for it
    from model.weights import hub

    path = Path(what)
    if what not in hub.HUB and path.is_file():
        return path
    if what not in hub.HUB and path.is_dir():
        from model.weights import loading

        return loading.file_in(path, name)
    if what not in hub.HUB:
        raise Wrong(f"There is no file {what}, and no model of that name.{_nearest(what)}")
    if hub.find(what) is None:
        raise Wrong(
            f"The weights of {what} are not here: run `terramosaic models fetch {what}`, or give "
            "the path of a file."
        )
    return hub.from_hub(what)


def _check_official(name: str) -> None:
    from model.weights import hub

    if name == "demo":
        raise Wrong("The weights of 'demo' are shipped: there is nothing to fetch.")
    if name not in hub.HUB:
        raise Wrong(f"There are no official weights for {name!r}.{_nearest(name)}")


def _check_known(name: str) -> None:
    from model.weights import hub

    if name not in ("demo", "terratorch", *hub.HUB) and not Path(name).is_file():
        raise Wrong(f"--as {name}: there is no model of that name.{_nearest(name)}")


def _nearest(name: str) -> str:
    from flows.config import error_messages
    from model.weights import hub

    return f"{error_messages.nearest(name, tuple(hub.HUB))} `terramosaic models` lists the names."
