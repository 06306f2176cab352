"""``accelnb tpu-config``: what to do on a TPU host."""

from __future__ import annotations

import rich_click as click


@click.command()
def command() -> None:
    """Say what to do on a TPU host, or that this is none.

    Example: accelnb tpu-config
    """
    from accelnb.tpu_advice import advice

    for line in advice():
        print(line)
