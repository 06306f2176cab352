"""Save the state of a training, and go on from it as if it had never stopped.

A checkpoint is a folder. What happens to it, from the outside in:

- What the Accelerator offers: `methods`. Its part `checkpoints` does it, step by step.
- Saving: `contents` collects the objects, `saving` goes through the steps (`background` while
  training goes on), `folder` puts the checkpoint in its place as a whole, `numbering` chooses that
  place where checkpoints are numbered by themselves.
- Loading: `reading` reads and checks everything (`reading_parts` what is divided over ranks), and
  only then `applying` changes anything.
- What is divided over ranks: `dtensors` takes it out of the states, which are files, and `sharded`
  writes it into a folder of `torch.distributed.checkpoint` beside them, and reads it.
  `parameter_names` is how optimizers and layouts understand each other.
- What all use: `file_names`, `manifest` of what is there, `files` to read and write one,
  `rng_states`, `unfinished_gradients`, and `weights`, with `weights_sources` for where a checkpoint
  has those of models.
- Weights alone: `writing_weights` (by `safetensors_file`), `reading_weights` (by `parts` for models
  that are divided), `merging` for those of a checkpoint, and `fsdp_folders` for Accelerate's.
"""

from accelnb.training.checkpoint.files import load, save
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    find_tied_parameters,
)

__all__ = [
    "clean_state_dict_for_safetensors",
    "find_tied_parameters",
    "load",
    "save",
]
