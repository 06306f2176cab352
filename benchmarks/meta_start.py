"""How much memory does a start without values (meta device) take? Each rank's peak over its shard.

A GPT is made on the meta device, divided by FSDP over ranks on CPUs (under torchrun, with gloo),
and filled: from rank 0, which alone has made it; from a folder of safetensors; or with values
drawn anew. Beside it torch by hand: ``to_empty`` and ``set_model_state_dict`` from rank 0.

The peak is that of ``anonymous_memory.py``.

    python benchmarks/meta_start.py --ranks 2 4
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from anonymous_memory import MIB, peak
from report import arguments, new_table
from rich.console import Console
from torch import nn

WAYS = ("rank 0", "folder", "drawn", "torch by hand")
_WIDTH, _BLOCKS, _WORDS = 1024, 6, 8192


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.mix = nn.Linear(_WIDTH, 4 * _WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)) + self.mix(x))


class Model(nn.Module):
    """One of 354 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_WORDS, _WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))
        self.head = nn.Linear(_WIDTH, _WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def measure(ranks: int, way: str) -> list[dict[str, float]]:
    """Return of each rank the MiB of its shard and of its peak, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        if way == "folder":
            subprocess.run([sys.executable, __file__, "--save", folder], check=True)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, f"--nproc-per-node={ranks}", __file__, "--rank", way, folder]
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            _, said = started.communicate(timeout=200)
        finally:
            started.terminate()  # it ends its ranks then
        if started.returncode:
            raise RuntimeError(f"{way} on {ranks} ranks ended with:\n{said[-2000:]}")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def _on_a_rank(way: str, folder: Path) -> None:
    from accelnb import Accelerator
    from accelnb.utils import (
        FullyShardedDataParallelPlugin,
        initialize_weights,
        load_checkpoint_in_model,
    )

    torch.set_num_threads(1)
    accelerator = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())
    accelerator.prepare(nn.Linear(8, 8))(torch.ones(1, 8)).sum().backward()  # imports, buffers
    whole = Model() if way in ("rank 0", "torch by hand") and accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    with peak() as found:
        model = whole if way == "rank 0" and whole is not None else _without_values()
        if way == "torch by hand":
            _by_hand(model, whole)
        else:
            model = accelerator.prepare(model)
        if way == "folder":
            load_checkpoint_in_model(model, folder)
        elif way == "drawn":
            initialize_weights(model)
    parts: list[Any] = list(model.parameters())
    found["shard"] = sum(part.to_local().nbytes for part in parts) / MIB
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()


def _without_values() -> Model:
    with torch.device("meta"):
        return Model()


def _by_hand(model: nn.Module, whole: nn.Module | None) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:  # pyright: ignore
        fully_shard(block)
    fully_shard(model)
    model.to_empty(device="cpu")
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole.state_dict() if whole else {}, options=options)


def _save(folder: str) -> None:
    from accelnb import Accelerator

    Accelerator().save_model(Model(), folder, max_shard_size="100MB")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    chosen = parser.parse_args()
    table = new_table("start without values", "from", "ranks", "shard", "peak", "ratio", "time")
    for ranks in chosen.ranks:
        for way in chosen.ways:
            results = measure(ranks, way)
            # Rank 0 has the whole model beforehand where it is the one that has made it.
            ratios = ", ".join(f"{it['peak'] / it['shard']:.2f}" for it in results)
            shard, peak = (max(it[kind] for it in results) for kind in ("shard", "peak"))
            seconds = max(it["seconds"] for it in results)
            row = way, str(ranks), f"{shard:.0f} MiB", f"{peak:.0f} MiB", ratios, f"{seconds:.2f} s"
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        _on_a_rank(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--save"]:
        _save(sys.argv[2])
    else:
        main()
