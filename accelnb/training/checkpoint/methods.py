"""`CheckpointMethods`: what the Accelerator offers to save and load."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, overload

from torch import nn
from torch.utils.hooks import RemovableHandle

from accelnb.training.checkpoint import files, writing_weights
from accelnb.training.checkpoint.background import PendingSave
from accelnb.training.checkpoint.checkpoints import Checkpoints
from accelnb.training.checkpoint.contents import IS_DIVIDED, is_divided
from accelnb.training.meeting import meeting


class CheckpointMethods:
    """The part of `Accelerator` that saves and loads."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    # Third-party code reads these.

    @property
    def _save_model_state_pre_hook(self) -> OrderedDict[int, Callable[..., None]]:
        return self._checkpoints.before_save

    @property
    def _load_model_state_pre_hook(self) -> OrderedDict[int, Callable[..., None]]:
        return self._checkpoints.before_load

    # ---- where ----

    @property
    def project_dir(self) -> str | os.PathLike[str] | None:
        return self._checkpoints.project.project_dir

    @property
    def logging_dir(self) -> str | os.PathLike[str] | None:
        return self._checkpoints.project.logging_dir

    @property
    def save_iteration(self) -> int:
        """The number of the next checkpoint."""
        return self._checkpoints.project.iteration

    # ---- the state of a training ----

    @overload
    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        asynchronous: Literal[False] = False,
    ) -> str: ...

    @overload
    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        asynchronous: bool,
    ) -> Any: ...

    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        asynchronous: bool = False,
    ) -> str | PendingSave:
        """Save everything that training needs to go on as if it had never stopped.

        Every rank calls it. The checkpoint is put in place as a whole: if a rank is killed or
        the disk is full, an earlier one in `output_dir` stays as it was. Files there that are not
        of a checkpoint are kept. Of what is divided over ranks each writes its parts, into a folder
        of ``torch.distributed.checkpoint``: none has all of it.

        Where it is called on the main process alone, and models are not divided, that one saves
        what is common to all; the random states of the others are not in the checkpoint.

        Parameters
        ----------
        output_dir
            With ``automatic_checkpoint_naming`` it is not used.
        safe_serialization
            Weights in the safetensors format, otherwise by ``torch.save``.
        asynchronous
            Copy the state and return; it is written while training goes on.

        Returns
        -------
        path : str
            Of the checkpoint; with `asynchronous` a `PendingSave`, to `wait` for.

        Raises
        ------
        AccelnbError
            It cannot be saved: on every rank, if it fails on one. Or a model is divided and
            another rank has gone on without calling it.

        Examples
        --------
        >>> import os, tempfile, torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> model = accelerator.prepare(torch.nn.Linear(2, 1))
        >>> path = accelerator.save_state(os.path.join(tempfile.mkdtemp(), "checkpoint"))
        >>> accelerator.load_state(path)
        """
        return self._checkpoints.save(
            output_dir, safe_serialization, asynchronous, self.get_state_dict
        )

    def load_state(
        self,
        input_dir: str | os.PathLike[str] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        *,
        map_location: str | None = None,
        strict: bool = True,
    ) -> None:
        """Load what `save_state` saved. Every rank calls it, after the same `prepare`.

        Everything is read and checked first: after an error nothing has changed. The ranks may be
        as many as they like, and divide models in another way, or not at all. Each then goes on
        with the random states and the place in the data of the first rank that had its share of
        the data; one that has none keeps its own.

        Parameters
        ----------
        input_dir
            By default, with ``automatic_checkpoint_naming``, the latest complete checkpoint.
        load_kwargs
            Of ``torch.load``, for everything but weights. ``weights_only=False`` is for files
            that you trust with more than plain values and tensors in them.
        map_location
            Where weights and optimizer states are read to: ``"on_device"``, or ``"cpu"`` from
            where they are copied to the device. By default the latter on the CPU and with one
            process. torch_xla's devices always are given copies.
        strict
            Refuse weights that are missing or unexpected; shapes are always compared.

        Raises
        ------
        AccelnbError
            Something is missing, damaged or does not fit: on every rank, if it is so on one.
        """
        self._checkpoints.load(input_dir, dict(load_kwargs or {}), map_location, strict)

    def _finish_saves(self) -> None:
        self._checkpoints.finish()

    def register_for_checkpointing(self, *objects: Any) -> None:
        """Have `save_state` and `load_state` also save and load these objects.

        Raises
        ------
        AccelnbError
            One lacks ``state_dict`` or ``load_state_dict``; then none is registered.
        """
        self._checkpoints.register(objects)

    # ---- weights alone, and any object ----

    def get_state_dict(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """Return a model's whole state dict; with `unwrap` under the model's own names.

        Of a model that is divided over ranks it is on rank 0 alone, on the CPU; the others get an
        empty dict. Every rank calls it then.

        Raises
        ------
        AccelnbError
            The model is divided, and another rank has gone on without calling it.
        """
        if not is_divided(model):
            return self._checkpoints.weights_of(model, unwrap)
        with meeting("get_state_dict", takes_all=IS_DIVIDED, in_step=True):
            return self._checkpoints.weights_of(model, unwrap)

    def save_model(
        self,
        model: nn.Module,
        save_directory: str | os.PathLike[str],
        max_shard_size: int | str = "10GB",
        safe_serialization: bool = True,
    ) -> None:
        """Save a model's weights in files that `load_checkpoint_in_model` and others load.

        Every rank calls it, or the main process alone if the model is not divided over ranks.
        Weights of an earlier save there are deleted. Those of a divided model are gathered a few at
        a time, and written as they come.

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
        on_each_machine = self._checkpoints.project.save_on_each_node
        reason = IS_DIVIDED if is_divided(model) else ""
        with meeting("save_model", os.fspath(save_directory), reason, in_step=bool(reason)):
            writing_weights.save_model(
                model,
                self.get_state_dict,
                save_directory,
                max_shard_size,
                safe_serialization,
                on_each_machine,
            )

    def save(self, obj: Any, f: Any, safe_serialization: bool = False) -> None:
        """Save an object once: from the main process, or one of each machine.

        See `accelnb.utils.save`; with ``save_on_each_node`` of the project it is saved on each.
        """
        files.save(obj, f, self._checkpoints.project.save_on_each_node, safe_serialization)

    # ---- hooks ----

    def register_save_state_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have `save_state` call ``hook(models, weights, folder)`` on every rank before it writes.

        It gets the models as they were given to `prepare`, in this order, and may write files into
        the folder. Weights that it takes out of the list are not saved.
        """
        return _registered(self._checkpoints.before_save, hook)

    def register_load_state_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have `load_state` call ``hook(models, folder)`` before it loads models.

        They are as they were given to `prepare`. Models that it takes out of the list are its own
        to load. Everything but models has been checked when it is called.
        """
        return _registered(self._checkpoints.before_load, hook)


def _registered(
    hooks: dict[int, Callable[..., None]], hook: Callable[..., None]
) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle
