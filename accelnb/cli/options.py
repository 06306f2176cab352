"""Launch options of the command line, made of the one table in config.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import rich_click as click

from accelnb.options.config import LaunchConfig, options

F = TypeVar("F", bound=Callable[..., Any])


def launch_options(*, without: Collection[str] = ()) -> Callable[[F], F]:
    """Give a click command the launch options, except some that it has no use for.

    Each reaches the command under its name, as text, or None where it was not given; `given`
    sorts these out.
    """

    def decorate(command: F) -> F:
        for option in reversed(options(LaunchConfig)):
            if option.name in without:
                continue
            metavar = "|".join(option.choices) if option.choices else option.name.upper()
            declare = click.option(
                *option.flags,
                option.name,
                default=None,
                metavar=metavar,
                help=option.help,
                shell_complete=_completed_by(option.choices),
            )
            command = declare(command)
        return command

    return decorate


def _completed_by(choices: Sequence[str]) -> Callable[..., list[str]]:
    def complete(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(begun)]

    return complete


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the launch options among a command's arguments that the user gave, as text."""
    names = {option.name for option in options(LaunchConfig)}
    return {name: text for name, text in arguments.items() if name in names and text is not None}
