"""`CheckpointMethods`: what the Accelerator offers to save and load."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import numbering
from accelnb.training.checkpoint.applying import apply
from accelnb.training.checkpoint.background import PendingSave
from accelnb.training.checkpoint.contents import contents, copied, kinds, unwrapped
from accelnb.training.checkpoint.folder import checked_target, full_path, recover
from accelnb.training.checkpoint.manifest import Manifest
from accelnb.training.checkpoint.reading import check_optimizers, read_states, read_weights
from accelnb.training.checkpoint.saving import begin
from accelnb.training.checkpoint.weight_methods import WeightMethods
from accelnb.training.collective_errors import attempt, of_every_rank, together
from accelnb.training.gradients import GradientState


class CheckpointMethods(WeightMethods):
    """The part of `Accelerator` that saves and loads.

    Attributes
    ----------
    step : int
        Batches in the accumulation.
    """

    gradient_state: GradientState
    scaler: torch.amp.GradScaler | None
    step: int
    _custom_objects: list[Any]
    _dataloaders: list[Any]
    _models: list[nn.Module]
    _optimizers: list[Any]
    _schedulers: list[Any]

    _pending_save: PendingSave | None = None

    # ---- where ----

    @property
    def project_dir(self) -> str | os.PathLike[str] | None:
        return self.project_configuration.project_dir

    @property
    def logging_dir(self) -> str | os.PathLike[str] | None:
        return self.project_configuration.logging_dir

    @property
    def save_iteration(self) -> int:
        """The number of the next checkpoint."""
        return self.project_configuration.iteration

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
        of a checkpoint are kept.

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
            It cannot be saved: on every rank, if it fails on one.

        Examples
        --------
        >>> import os, tempfile, torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> model = accelerator.prepare(torch.nn.Linear(2, 1))
        >>> path = accelerator.save_state(os.path.join(tempfile.mkdtemp(), "checkpoint"))
        >>> accelerator.load_state(path)
        """
        self._finish_saves()
        configuration = self.project_configuration
        numbered = configuration.automatic_checkpoint_naming
        target = together(self, lambda: self._target(output_dir))
        save = begin(self, target, configuration.total_limit if numbered else None, numbered)
        try:
            weights = together(self, lambda: self._weights_for(str(save.new_folder)))
            writes_shared = self.is_main_process or (
                configuration.save_on_each_node and save.owns_folder
            )
            mine = contents(self, weights, writes_shared, safe_serialization)
            manifest = Manifest(save.token, self.num_processes, self.step, kinds(self))
            if asynchronous:
                copies = together(self, lambda: copied(mine))
                self._pending_save = PendingSave(save, copies, manifest)
            else:
                together(self, lambda: save.write(mine))
                together(self, lambda: save.complete(manifest))
        except BaseException:
            save.discard()
            raise
        configuration.iteration += 1
        return self._pending_save or str(target)

    def _target(self, output_dir: str | os.PathLike[str] | None) -> Path:
        if self.project_configuration.automatic_checkpoint_naming:
            return checked_target(numbering.next_checkpoint(self.project_configuration))
        if output_dir is None:
            raise AccelnbError(
                "save_state() needs output_dir, or automatic_checkpoint_naming of a "
                "ProjectConfiguration"
            )
        return checked_target(output_dir)

    def _weights_for(self, folder: str) -> list[dict[str, Any]]:
        weights = [self.get_state_dict(model) for model in self._models]
        for hook in self._save_model_state_pre_hook.values():
            hook(list(self._models), weights, folder)
        return weights

    def load_state(
        self,
        input_dir: str | os.PathLike[str] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        *,
        map_location: str | None = None,
        strict: bool = True,
    ) -> None:
        """Load what `save_state` saved. Every rank calls it, after the same `prepare`.

        Everything is read and checked first: after an error nothing has changed. With another
        number of ranks, those without saved random states keep their own.

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
        self._finish_saves()
        location = self._location(map_location)
        folder = self._found(input_dir)
        states = together(
            self, lambda: read_states(self, folder, location, dict(load_kwargs or {}))
        )
        weights = together(self, lambda: self._weights_from(folder, location, strict))
        # After the weights: of another model these tell more.
        together(self, lambda: check_optimizers(states.optimizers, folder))
        apply(self, states, weights)
        self._follow_number_of(folder)
        lacking = [
            rank for rank, has in enumerate(of_every_rank(self, states.rng is not None)) if not has
        ]
        if lacking and self.is_main_process:
            warnings.warn(
                f"{folder} has no random states for rank {', '.join(map(str, lacking))}: there "
                "they stay as they are",
                stacklevel=2,
            )

    def _location(self, map_location: str | None) -> torch.device:
        if map_location not in (None, "cpu", "on_device"):
            raise AccelnbError(f"map_location={map_location}: choose 'cpu' or 'on_device'")
        several_devices = self.use_distributed and self.device.type != "cpu"
        chosen = map_location or ("on_device" if several_devices else "cpu")
        direct = chosen == "on_device" and not records(self.device.type)
        return self.device if direct else torch.device("cpu")

    def _found(self, input_dir: str | os.PathLike[str] | None) -> Path:
        configuration = self.project_configuration
        if input_dir is not None:
            folder = full_path("input_dir", input_dir)
            together(self, lambda: recover(folder) if self.is_local_main_process else None)
            return folder
        if not configuration.automatic_checkpoint_naming:
            raise AccelnbError(
                "load_state() needs input_dir, or automatic_checkpoint_naming of a "
                "ProjectConfiguration"
            )
        latest = together(
            self,
            lambda: numbering.latest_checkpoint(configuration) if self.is_main_process else None,
        )
        name = of_every_rank(self, latest and latest.name)[0]
        return numbering.checkpoints_folder(configuration) / name

    def _weights_from(
        self, folder: Path, location: torch.device, strict: bool
    ) -> list[tuple[nn.Module, dict[str, Any]]]:
        models = list(self._models)
        for hook in self._load_model_state_pre_hook.values():
            hook(models, str(folder))
        return read_weights([unwrapped(model) for model in models], folder, location, strict)

    def _follow_number_of(self, folder: Path) -> None:
        configuration = self.project_configuration
        if not configuration.automatic_checkpoint_naming or configuration.project_dir is None:
            return
        home = numbering.checkpoints_folder(configuration)
        if home.resolve() == folder.resolve().parent:
            configuration.iteration = of_every_rank(self, numbering.following_number(home))[0]

    def _finish_saves(self) -> None:
        """Wait for a checkpoint that is still being written; raise what went wrong with it."""
        pending = self._pending_save
        if pending is None:
            return
        _, failure = attempt(lambda: together(self, pending.wait))
        self._pending_save = None
        if failure is not None:
            raise failure

    def register_for_checkpointing(self, *objects: Any) -> None:
        """Have `save_state` and `load_state` also save and load these objects.

        Raises
        ------
        AccelnbError
            One lacks ``state_dict`` or ``load_state_dict``; then none is registered.
        """
        for index, thing in enumerate(objects):
            if not hasattr(thing, "state_dict") or not hasattr(thing, "load_state_dict"):
                raise AccelnbError(
                    f"object {index}, a {type(thing).__name__}, cannot be registered for "
                    "checkpointing: it needs the methods state_dict and load_state_dict"
                )
        self._custom_objects.extend(objects)

    # ---- hooks ----

    @cached_property
    def _save_model_state_pre_hook(self) -> OrderedDict[int, Callable[..., None]]:
        return OrderedDict()

    @cached_property
    def _load_model_state_pre_hook(self) -> OrderedDict[int, Callable[..., None]]:
        return OrderedDict()

    def register_save_state_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have `save_state` call ``hook(models, weights, folder)`` on every rank before it writes.

        The hook may write files into the folder. Weights that it takes out of the list are not
        saved.
        """
        return _registered(self._save_model_state_pre_hook, hook)

    def register_load_state_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Have `load_state` call ``hook(models, folder)`` before it loads models.

        Models that it takes out of the list are its own to load. Everything but models has been
        checked when it is called.
        """
        return _registered(self._load_model_state_pre_hook, hook)


def _registered(
    hooks: OrderedDict[int, Callable[..., None]], hook: Callable[..., None]
) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle
