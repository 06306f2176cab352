"""Save the state of a training, and go on from it as if it had never stopped.

`methods` has what the Accelerator offers. A checkpoint is a folder: `contents` makes what is in
it, `folder` puts it in place as a whole, `manifest` lists it, `reading` checks it before anything
is changed. `weights` and `shards` are for the model alone.
"""

from accelnb.training.checkpoint.files import load, save
from accelnb.training.checkpoint.methods import CheckpointMethods
from accelnb.training.checkpoint.shards import load_checkpoint_in_model
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    find_tied_parameters,
)

__all__ = [
    "CheckpointMethods",
    "clean_state_dict_for_safetensors",
    "find_tied_parameters",
    "load",
    "load_checkpoint_in_model",
    "save",
]
