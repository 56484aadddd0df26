"""Options that all commands have: ``--json`` and ``--debug``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from flows.cli.console import Console


def subcommand(group: click.Group, name: str) -> Callable[[Callable[..., int]], click.Command]:
    """Register a command with the options ``--json`` and ``--debug``."""

    def register(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def call(*, as_json: bool, debug: bool, **options: Any) -> int:
            console = Console(as_json=as_json, debug=debug)
            return console.run(functools.partial(function, console, **options))

        decorated = click.option(
            "--debug",
            is_flag=True,
            envvar="TERRAMOSAIC_DEBUG",
            help="Show the traceback of an error.",
        )(call)
        decorated = click.option(
            "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
        )(decorated)
        return group.command(name)(decorated)

    return register
