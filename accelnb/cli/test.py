"""`accelnb test`: try a configuration on real ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from accelnb.cli.options import given, launch_options
from accelnb.options.config import LaunchConfig, from_mapping
from accelnb.options.config_file import FILE, read_file


@click.command()
@launch_options(without=("timeout", "stall", "logs"))
@click.option("--ignore-file", is_flag=True, help="do without the accelnb.yaml of this folder")
def command(ignore_file: bool, **arguments: Any) -> None:
    """Start ranks, let them talk and train a little, and say whether all of it works.

    What is not given comes from the accelnb.yaml of this folder, if there is one. The exit code
    is 1 if a step failed.

    Example: accelnb test --procs 4 --precision bf16
    """
    from rich.console import Console

    from accelnb.cli.selftest import self_test, show

    file = read_file(FILE) if Path(FILE).exists() and not ignore_file else {}
    config = from_mapping(LaunchConfig, {**file, **given(arguments)})
    last = show(self_test(config), Console())
    if last.status == "failed":
        raise SystemExit(1)
