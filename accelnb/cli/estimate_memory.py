"""``accelnb estimate-memory``: will it fit?"""

from __future__ import annotations

import sys
from typing import NamedTuple

import rich_click as click

_PARTS = ("parameters", "gradients", "optimizer", "copies", "activations", "total")


@click.command()
@click.argument("model", metavar="MODEL", type=click.Path())
@click.option("-n", "--procs", type=click.IntRange(min=1), help="number of ranks (default: 1)")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="no|fp16|bf16|fp8",
    help="may be given several times (default: no and bf16)",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="ddp|zero1|zero2|fsdp|hsdp",
    help="beside ddp; may be given several times (default: all but hsdp)",
)
@click.option(
    "--mesh",
    metavar="dp_shard=4,tp=2",
    help="how the ranks are arranged, as of %%distributed; the number of ranks follows from it",
)
@click.option("--optimizer", default="adamw", metavar="adam|adamw|sgd-momentum|sgd")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="of a class: one for each input of a forward pass, such as 32x784 or 8x128:int64; "
    "activations are counted with it",
)
@click.option("--batch", type=click.IntRange(min=1), help="of a folder: sequences in a batch")
@click.option("--sequence", type=click.IntRange(min=1), help="of a folder: tokens of each")
def command(
    model: str,
    procs: int | None,
    precisions: tuple[str, ...],
    strategies: tuple[str, ...],
    mesh: str | None,
    optimizer: str,
    inputs: tuple[str, ...],
    batch: int | None,
    sequence: int | None,
) -> None:
    """Say how much memory each rank needs to train a model, by strategy and precision.

    MODEL is a class or a function that returns a model (package.module:Class or file.py:Class),
    a safetensors file or a folder of such, or a folder with a Hugging Face config.json. No
    weights are made.

    \b
    Examples:
      accelnb estimate-memory models.py:Net --input 32x3x224x224
      accelnb estimate-memory ./llama -n 8 --batch 1 --sequence 4096
      accelnb estimate-memory ./llama --strategy fsdp --mesh dp_shard=4,tp=2
      accelnb estimate-memory model.safetensors --optimizer sgd
    """
    from rich.console import Console
    from rich.table import Table

    from accelnb.cli.memory_estimate import estimate, read_model
    from accelnb.devices.memory_size import in_words
    from accelnb.errors import AccelnbError
    from accelnb.options.mesh import write_mesh

    try:
        ways, procs = _ways(strategies, mesh, procs)
        size = read_model(model, inputs=inputs, batch=batch, sequence=sequence)
        needs = [
            estimate(
                size,
                procs=procs,
                strategy=way.strategy,
                precision=precision,
                optimizer=optimizer,
                mesh=way.mesh,
            )
            for precision in precisions or ("no", "bf16")
            for way in ways
        ]
    except AccelnbError as error:
        print(f"accelnb: {error}", file=sys.stderr)
        sys.exit(2)
    console = Console()
    console.print(f"{size.name}: {size.parameters:,} parameters", highlight=False, soft_wrap=True)
    ranks = f"each of {procs} ranks" if procs > 1 else "one rank"
    if ways[-1].mesh:
        ranks += f" ({write_mesh(tuple(ways[-1].mesh.items()))})"
    for precision in dict.fromkeys(need.precision for need in needs):
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
        table.title = f"precision {precision}, {optimizer}, {ranks}"
        table.add_column("strategy", no_wrap=True)
        for part in _PARTS:
            table.add_column(part, justify="right", no_wrap=True)
        for need in needs:
            if need.precision == precision:
                name = need.strategy if procs > 1 else "alone"
                table.add_row(name, *(in_words(getattr(need, part)) for part in _PARTS))
        console.print(table)
    if size.how:
        console.print(f"activations: {size.how}", highlight=False)
    else:
        say = "--input" if ":" in model else "--batch and --sequence"
        console.print(f"activations are not in the total: give {say}", highlight=False)


class _Way(NamedTuple):
    """What a row of the table is of."""

    strategy: str
    mesh: dict[str, int]


def _ways(
    strategies: tuple[str, ...], mesh: str | None, procs: int | None
) -> tuple[list[_Way], int]:
    """Return the ways to train that are asked for, ddp first, and the number of ranks.

    Raises
    ------
    AccelnbError
        There is no such strategy or mesh, or they do not fit each other.
    """
    from accelnb.cli.memory_estimate.rank_memory import STRATEGIES
    from accelnb.errors import AccelnbError
    from accelnb.options import mesh as meshes
    from accelnb.options.config import LaunchConfig, options

    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise AccelnbError(f"strategy={strategy}: choose one of {', '.join(STRATEGIES)}")
    option = next(option for option in options(LaunchConfig) if option.name == "mesh")
    given = option.read(mesh or "none")
    procs = procs or meshes.places(given) or 1
    try:
        meshes.check_order(given)
        sizes = meshes.filled(given, procs)
    except AccelnbError as error:
        raise option.refuse(given, str(error)) from None
    for strategy in strategies:
        if reason := meshes.why_not_strategy(strategy, sizes, 1):
            raise AccelnbError(f"strategy={strategy}: {reason}")
    if procs == 1:
        return [_Way("ddp", {})], 1
    usual = ("fsdp",) if sizes else tuple(name for name in STRATEGIES if name != "hsdp")
    others = [name for name in dict.fromkeys(strategies or usual) if name != "ddp"]
    return [_Way("ddp", {}), *(_Way(name, dict(sizes)) for name in others)], procs
