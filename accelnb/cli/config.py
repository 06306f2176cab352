"""``accelnb config``: the options of a folder's notebooks, chosen in the terminal."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from accelnb.cli.options import given, launch_options
from accelnb.options.config import (
    ConfigError,
    LaunchConfig,
    Option,
    from_mapping,
    options,
    possible,
    resolve,
    to_line,
)
from accelnb.options.config_file import FILE, read_file, write_file

if TYPE_CHECKING:
    from accelnb.devices.hardware import Hardware

_ASKED = ("device", "procs", "precision", "strategy", "mesh", "accumulation")


@click.command()
@launch_options()
@click.option("--default", "is_default", is_flag=True, help="write the defaults, ask nothing")
@click.option("--show", is_flag=True, help="show what is in force here, write nothing")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(FILE),
    help="the file (default: accelnb.yaml in this folder)",
)
def command(is_default: bool, show: bool, path: Path, **arguments: Any) -> None:
    """Write the accelnb.yaml of this folder, which its notebooks and accelnb launch read.

    Without options it asks question by question what this machine can do. With options it sets
    these and asks nothing. It is the same file as the panel (%accelnb in a notebook) writes.

    \b
    Examples:
      accelnb config                          questions and answers
      accelnb config --procs 4 --precision bf16
      accelnb config --default
      accelnb config --show
    """
    from accelnb.devices.hardware import probe

    asked = given(arguments)
    hardware = probe()
    try:
        in_file = read_file(path) if path.exists() and not is_default else {}
        config = from_mapping(LaunchConfig, in_file | asked)
        resolved = resolve(config, hardware)
        if show:
            _show(path, config, resolved, in_file, asked)
            return
        if not asked and not is_default:
            config = _ask_all(config, hardware)
    except ConfigError as error:
        print(f"accelnb: {error}", file=sys.stderr)
        sys.exit(2)
    except click.Abort:
        print("\naccelnb: stopped; nothing was written", file=sys.stderr)
        sys.exit(1)
    write_file(path, config)
    _show_written(path, config)


def _show(
    path: Path,
    config: LaunchConfig,
    resolved: LaunchConfig,
    in_file: dict[str, Any],
    asked: dict[str, Any],
) -> None:
    print(f"{path}" if path.exists() else f"there is no {path}: these are the defaults")
    for option in options(LaunchConfig):
        value, means = getattr(config, option.name), getattr(resolved, option.name)
        here = f", here {option.write(means)}" if means != value else ""
        origin = "given" if option.name in asked else "file" if option.name in in_file else ""
        print(f"  {option.name:<13} {option.write(value)}{here}{origin and f'  ({origin})'}")


def _show_written(path: Path, config: LaunchConfig) -> None:
    line = f"%%distributed {to_line(config)}".rstrip()
    print(f"written to {path}; a cell has the same by\n  {line}")


# ---- questions ----


def _ask_all(config: LaunchConfig, hardware: Hardware) -> LaunchConfig:
    print(f"This machine has {hardware.describe()}. Enter keeps what is in brackets.\n")
    by_name = {option.name: option for option in options(LaunchConfig)}
    mesh = config.mesh
    config = dataclasses.replace(config, mesh=())  # the number of ranks is asked first
    for name in _ASKED:
        if name == "mesh":
            config = _ask(by_name[name], config, hardware, by_name[name].write(mesh))
        else:
            value = by_name[name].write(getattr(config, name))
            config = _ask(by_name[name], config, hardware, value)
    return config


def _ask(option: Option, config: LaunchConfig, hardware: Hardware, usual: str) -> LaunchConfig:
    """Ask until the answer is possible."""
    print(f"{option.name}: {option.help}")
    if option.choices:
        for choice, why_not in possible(config, hardware)[option.name].items():
            print(f"  {choice:<9} not here: {why_not}" if why_not else f"  {choice}")
    while True:
        text = click.prompt(f"  {option.name}", default=usual, show_default=True)
        value = None if text == "default" and option.default is None else text
        try:
            answered = from_mapping(LaunchConfig, {option.name: value}, config)
            resolve(answered, hardware)
        except ConfigError as error:
            print(f"  {error}")
            continue
        print()
        return answered
