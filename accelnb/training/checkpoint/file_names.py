"""The names of a checkpoint's files, which are Accelerate's."""

from __future__ import annotations

import re
from pathlib import Path

from accelnb.training import constants

MODEL = constants.SAFE_WEIGHTS_NAME
MODEL_PICKLED = constants.WEIGHTS_NAME
OPTIMIZER = f"{constants.OPTIMIZER_NAME}.bin"
SCHEDULER = f"{constants.SCHEDULER_NAME}.bin"
CUSTOM = "custom_checkpoint.pkl"  # numbered from 0
LOADER = "dl_state_dict.bin"
SCALER = constants.SCALER_NAME
SHARDED = "sharded"  # not one of Accelerate's: a folder of torch.distributed.checkpoint
OPTIMIZER_KEY = "optimizer"  # in Accelerate's folders of parts
MANIFEST = "checkpoint.json"  # not one of Accelerate's: what the checkpoint consists of

_OURS = re.compile(
    r"model(_\d+)?\.safetensors|pytorch_model(_\d+)?\.bin|(optimizer|scheduler|sampler)(_\d+)?\.bin"
    r"|dl_state_dict(_\d+)?(_rank\d+)?\.bin|scaler\.pt|(random_states|custom_checkpoint)_\d+\.pkl"
    r"|gradients_rank\d+\.bin|checkpoint\.json|sharded"
)


def numbered(name: str, index: int) -> str:
    """Return the name for the object of that index: ``optimizer.bin``, ``optimizer_1.bin`` ...

    Examples
    --------
    >>> from accelnb.training.checkpoint.file_names import numbered
    >>> [numbered("optimizer.bin", index) for index in range(2)]
    ['optimizer.bin', 'optimizer_1.bin']
    """
    stem, dot, ending = name.partition(".")
    return f"{stem}_{index}{dot}{ending}" if index or name == CUSTOM else name


def key(name: str, index: int) -> str:
    """Return what the parts of an object are named by in the folder of parts: ``optimizer_1``."""
    kind = "model" if name in (MODEL, MODEL_PICKLED) else name.partition(".")[0]
    return f"{kind}_{index}" if index else kind


def model_folder(folder: Path, index: int) -> Path:
    """Return where Accelerate puts the parts of a model."""
    return folder / f"{constants.FSDP_MODEL_NAME}_{index}"


def optimizer_folder(folder: Path, index: int) -> Path:
    """Return where Accelerate puts the parts of an optimizer."""
    return folder / f"{constants.OPTIMIZER_NAME}_{index}"


def random_states(rank: int) -> str:
    return f"{constants.RNG_STATE_NAME}_{rank}.pkl"


def gradients(rank: int) -> str:
    return f"gradients_rank{rank}.bin"


def loader_of_rank(index: int, rank: int) -> str:
    """Return the name for a loader's state that differs from that of rank 0."""
    return numbered(LOADER, index).replace(".bin", f"_rank{rank}.bin")


def is_ours(name: str) -> bool:
    """Return whether a file of that name belongs to a checkpoint."""
    return _OURS.fullmatch(name) is not None


def count(folder: Path, name: str) -> int:
    """Return how many objects of a kind a checkpoint has: of `OPTIMIZER`, say."""
    stem, _, ending = name.partition(".")
    pattern = re.compile(rf"{stem}(_\d+)?\.{ending}")
    if optimizer_folder(folder, 0).is_dir() and name == OPTIMIZER:
        pattern = re.compile(rf"{stem}_\d+")
    return sum(pattern.fullmatch(entry.name) is not None for entry in folder.iterdir())
