"""Save the state of a training, and go on from it as if it had never stopped.

A checkpoint is a folder. What happens to it, from the outside in:

- What the Accelerator offers: `methods`. Its part `checkpoints` does it, step by step.
- Saving: `contents` collects the objects, `saving` goes through the steps (`background` while
  training goes on), `folder` puts the checkpoint in its place as a whole, `numbering` chooses that
  place where checkpoints are numbered by themselves.
- Loading: `reading` reads and checks everything, and only then `applying` changes anything.
- What is divided over ranks is beside the files, in a folder of `torch.distributed.checkpoint`:
  `dtensors`, `sharded`; of optimizers by `parameter_names`.
- What both use: `file_names`, `manifest` of what is there, `files` to read and write one,
  `rng_states`, `unfinished_gradients`, and `weights`, with `weights_sources` for where those of
  models are.
- Weights alone, in files of bounded size: `writing_weights`, `reading_weights`, and `merging` for
  those of a checkpoint.
"""

from accelnb.training.checkpoint.files import load, save
from accelnb.training.checkpoint.reading_weights import load_checkpoint_in_model
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    find_tied_parameters,
)

__all__ = [
    "clean_state_dict_for_safetensors",
    "find_tied_parameters",
    "load",
    "load_checkpoint_in_model",
    "save",
]
