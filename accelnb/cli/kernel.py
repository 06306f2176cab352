"""`accelnb kernel`: kernels in Jupyter's launcher whose ranks are ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from accelnb.cli.options import given, launch_options
from accelnb.options.config import LaunchConfig, from_mapping


@click.group()
def command() -> None:
    """Install a Jupyter kernel with accelnb loaded and its ranks started.

    Notebooks choose it in Jupyter's launcher or in their Kernel menu.

    \b
    Examples:
      accelnb kernel install --procs 4 --precision bf16
      accelnb kernel install --name on-ranks --auto
      accelnb kernel list
      accelnb kernel remove on-ranks
    """


@command.command()
@launch_options()
@click.option("--name", default="accelnb", help="what the kernel is called in commands and files")
@click.option("--display-name", default=None, help="what Jupyter shows (default: by the options)")
@click.option("--auto", is_flag=True, help="run every cell on all ranks unless marked %%local")
@click.option("--user", "where", flag_value="user", help="for this user, in every environment")
@click.option(
    "--sys-prefix",
    "where",
    flag_value="sys-prefix",
    help="in this Python's environment (default)",
)
@click.option("--prefix", type=click.Path(path_type=Path), help="below this folder")
def install(
    name: str,
    display_name: str | None,
    auto: bool,
    where: str | None,
    prefix: Path | None,
    **arguments: Any,
) -> None:
    """Put a kernel in Jupyter's launcher; a kernel of that name is replaced.

    The launch options are the defaults of its notebooks. An accelnb.yaml beside a notebook and
    the options of a cell go before them.

    Example: accelnb kernel install --procs 4 --precision bf16
    """
    from accelnb.jupyter.kernelspec import write

    if where is not None and prefix is not None:
        raise click.UsageError(f"--prefix and --{where} are two places; give one of them")
    config = from_mapping(LaunchConfig, given(arguments))
    folder = write(name, config, auto=auto, display_name=display_name, where=prefix or where)
    print(f"{name} is installed in {folder}")


@command.command("list")
def list_() -> None:
    """List the installed kernels that are accelnb's, with their options.

    Example: accelnb kernel list
    """
    from accelnb.jupyter.kernelspec import installed

    specs = installed()
    if not specs:
        print("no kernel of accelnb is installed; see accelnb kernel install --help")
    width = max(map(len, specs), default=0)
    for name, spec in specs.items():
        said = [f"{name:{width}}", spec.display_name, spec.options or "(no options)", spec.folder]
        print("  ".join(said))


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a kernel that accelnb installed. Notebooks that use it are left as they are.

    Example: accelnb kernel remove accelnb
    """
    from accelnb.jupyter.kernelspec import remove as remove_spec

    print(f"removed {remove_spec(name)}")
