"""``accelnb env``: what accelnb runs in."""

from __future__ import annotations

import rich_click as click


@click.command()
@click.option("--plain", is_flag=True, help="As text without colour, to paste in a bug report.")
def command(plain: bool) -> None:
    """Show versions, hardware and settings, and what to put right.

    Of the environment it shows only variables that matter here, and no secrets.

    \b
    Examples:
      accelnb env
      accelnb env --plain > env.txt
    """
    from accelnb.cli.environment import show

    show(plain)
