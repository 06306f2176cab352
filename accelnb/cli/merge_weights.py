"""``accelnb merge-weights``: a sharded checkpoint as safetensors."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--key", help="where the weights are in the checkpoint (default: model, if it is)")
@click.option("--max-shard-size", default="10GB", help="of the files, where OUT is a folder")
@click.option("--force", is_flag=True, help="replace what is there")
def command(
    checkpoint: Path, output: Path, key: str | None, max_shard_size: str, force: bool
) -> None:
    """Write the weights of a sharded checkpoint as safetensors.

    CHECKPOINT is a folder of torch.distributed.checkpoint, whatever the number of ranks that
    saved it, or safetensors in several files. OUT is a file (model.safetensors) or a folder. The
    values are the same to the bit; OUT appears when it is complete.

    \b
    Examples:
      accelnb merge-weights checkpoints/step-1000 model.safetensors
      accelnb merge-weights checkpoints/step-1000 weights/ --max-shard-size 5GB
    """
    from accelnb.training.checkpoint.merging import merge_weights

    count = merge_weights(checkpoint, output, key=key, max_shard_size=max_shard_size, force=force)
    print(f"{count} tensors are in {output}")
