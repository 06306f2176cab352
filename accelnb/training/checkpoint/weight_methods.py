"""`WeightMethods`: what the Accelerator offers for weights alone, and for any object."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import files
from accelnb.training.checkpoint.contents import unwrapped
from accelnb.training.checkpoint.shards import write_model
from accelnb.training.checkpoint.weights import weights_of
from accelnb.training.collective_errors import together
from accelnb.training.configuration import ProjectConfiguration
from accelnb.training.process_control import ProcessControl


class WeightMethods(ProcessControl):
    """The part of `Accelerator` that saves models and objects.

    Attributes
    ----------
    project_configuration : ProjectConfiguration
        Where checkpoints lie, and whether each machine has its own.
    """

    project_configuration: ProjectConfiguration

    def get_state_dict(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """Return a model's whole state dict; with `unwrap` under the model's own names."""
        return weights_of(unwrapped(model) if unwrap else model)

    def save_model(
        self,
        model: nn.Module,
        save_directory: str | os.PathLike[str],
        max_shard_size: int | str = "10GB",
        safe_serialization: bool = True,
    ) -> None:
        """Save a model's weights in files that `load_checkpoint_in_model` and others load.

        Every rank calls it. Weights of an earlier save there are deleted.

        Parameters
        ----------
        max_shard_size
            The largest file, as ``"5MB"`` or in bytes. One weight that is larger has its own.

        Raises
        ------
        AccelnbError
            They cannot be saved: on every rank.

        Examples
        --------
        >>> import os, tempfile, torch
        >>> from accelnb import Accelerator
        >>> folder = tempfile.mkdtemp()
        >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder)
        >>> os.listdir(folder)
        ['model.safetensors']
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise AccelnbError(
                f"this {type(model).__name__} has parameters without values (meta device), and "
                "cannot be saved"
            )
        state = self.get_state_dict(model)
        folder = Path(save_directory).expanduser()
        writes = self.is_main_process or (
            self.project_configuration.save_on_each_node and self.is_local_main_process
        )
        together(
            self,
            lambda: (
                write_model(state, folder, max_shard_size, safe_serialization) if writes else None
            ),
        )

    def save(self, obj: Any, f: Any, safe_serialization: bool = False) -> None:
        """Save an object once: from the main process, or one of each machine.

        See `accelnb.utils.save`; with ``save_on_each_node`` of the project it is saved on each.
        """
        files.save(obj, f, self.project_configuration.save_on_each_node, safe_serialization)
