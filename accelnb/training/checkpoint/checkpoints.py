"""`Checkpoints`: the steps of saving a training, and of going on from what was saved."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import numbering
from accelnb.training.checkpoint.applying import apply
from accelnb.training.checkpoint.background import (
    PendingSave,
    add_to_placed,
    write_with_others,
)
from accelnb.training.checkpoint.contents import (
    Training,
    added_by,
    contents,
    copied,
    has_parts,
    is_divided,
    kinds,
    parts_of,
    takes_all_ranks,
)
from accelnb.training.checkpoint.dtensors import as_shards, without_advice
from accelnb.training.checkpoint.folder import checked_target, full_path, recover
from accelnb.training.checkpoint.manifest import Manifest
from accelnb.training.checkpoint.reading import (
    check_optimizers,
    read_states,
    read_weights,
)
from accelnb.training.checkpoint.reading_parts import with_parts
from accelnb.training.checkpoint.saving import Save, begin
from accelnb.training.checkpoint.weights import readable, unwrapped
from accelnb.training.collective_errors import attempt, of_every_rank, together
from accelnb.training.configuration import ProjectConfiguration
from accelnb.training.meeting import Meeting, meeting
from accelnb.training.parallel.unwrapping import extract_model_from_parallel

if TYPE_CHECKING:
    from accelnb.training.checkpoint.sharded import Writing

_Hooks = OrderedDict[int, Callable[..., None]]
_Given = str | os.PathLike[str] | None


class Checkpoints:
    """Saves and loads a training. Every rank calls its methods.

    Attributes
    ----------
    project : ProjectConfiguration
        Where checkpoints lie that are numbered by themselves.
    before_save, before_load : OrderedDict
        Hooks for models, by their handles' numbers.
    """

    def __init__(self, training: Callable[[], Training], project: ProjectConfiguration) -> None:
        self.project = project
        self.before_save: _Hooks = OrderedDict()
        self.before_load: _Hooks = OrderedDict()
        self._training = training
        self._pending: list[PendingSave] = []

    def register(self, objects: tuple[Any, ...]) -> None:
        """Save and load these too."""
        for index, thing in enumerate(objects):
            if not hasattr(thing, "state_dict") or not hasattr(thing, "load_state_dict"):
                raise AccelnbError(
                    f"object {index}, a {type(thing).__name__}, cannot be registered for "
                    "checkpointing: it needs the methods state_dict and load_state_dict"
                )
        self._training().custom.extend(objects)

    # ---- saving ----

    def weights_of(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """Return a model's whole state dict; a collective if the model is sharded."""
        inner = as_shards(unwrapped(model) if unwrap else model)
        with without_advice():
            return readable(self._training().strategy.state_dict(inner))

    def save(
        self,
        output_dir: _Given,
        safe_serialization: bool,
        asynchronous: bool,
        weights_of: Callable[[nn.Module], dict[str, Any]],
    ) -> str | PendingSave:
        """Save everything; return where, or what is still being written.

        What rank 0 has whole it saves also without the others. Those that come later, or only
        some of them, add what is their own.
        """
        main = self._training().process.is_main_process
        numbered = self.project.automatic_checkpoint_naming
        asked = "" if numbered else os.fspath(output_dir or "")
        target, failure = attempt(lambda: self._target(output_dir))
        reason = takes_all_ranks(self._training())
        said = str(target or "")
        with meeting("save_state", asked, reason, said, in_step=bool(reason)) as met:
            if not met.of_everyone and not main:
                return self._add(met, asynchronous)
            self.finish(met.of_everyone)
            together(lambda: _raise(failure if main or not numbered else None))
            # After saves of rank 0 alone only that one knows the number.
            target = Path(met.said) if numbered or target is None else target
            return self._save(met, target, safe_serialization, asynchronous, weights_of)

    def _save(
        self,
        met: Meeting,
        target: Path,
        safe_serialization: bool,
        asynchronous: bool,
        weights_of: Callable[[nn.Module], dict[str, Any]],
    ) -> str | PendingSave:
        training, project = self._training(), self.project
        process = training.process
        numbered = project.automatic_checkpoint_naming
        limit = project.total_limit if numbered else None
        save = begin(process, target, met.token, limit, numbered)
        try:
            weights = self._weights_for(training, weights_of, str(save.new_folder))
            each_folder = project.save_on_each_node or has_parts(training)
            writes_shared = process.is_main_process or (each_folder and save.owns_folder)
            mine = contents(training, weights, writes_shared, safe_serialization)
            parts = save.parts(mine)
            manifest = Manifest(
                save.token,
                process.num_processes,
                training.accumulation.step,
                kinds(training),
                shares=training.mesh.shares_of(process.num_processes),
                by_one=not met.of_everyone,
            )
            if asynchronous:
                copies = together(lambda: _held(mine.files, parts))
                write = partial(write_with_others, save, copies, manifest, parts)
                self._pending.append(PendingSave(str(target), write, met.of_everyone))
            else:
                together(lambda: save.write(mine.files))
                if parts is not None:
                    written = of_every_rank(together(parts.write))
                    together(lambda: parts.complete([written[rank] for rank in save.writers]))
                together(lambda: save.complete(manifest))
        except BaseException:
            save.discard()
            raise
        self._count(target)
        return self._pending[-1] if asynchronous else str(target)

    def _add(self, met: Meeting, asynchronous: bool) -> str | PendingSave:
        """Add what is this rank's own to a checkpoint that rank 0 saves without all others."""
        training = self._training()
        self.finish(of_everyone=False)
        save = Save(Path(met.said), met.token, training.process.process_index, writers=[0])
        adding = PendingSave(met.said, partial(add_to_placed, save, added_by(training)), False)
        self._count(save.target)
        if asynchronous:
            self._pending.append(adding)
        return adding if asynchronous else adding.wait()

    def _count(self, saved: Path) -> None:
        numbered = self.project.automatic_checkpoint_naming
        before = numbering.number_of(saved) if numbered else self.project.iteration
        self.project.iteration = before + 1

    def finish(self, of_everyone: bool = True) -> None:
        """Wait for checkpoints that are still being written; raise what went wrong with them.

        Parameters
        ----------
        of_everyone
            Whether all ranks call this; else those stay that all of them write.
        """
        own = [pending for pending in self._pending if not pending.of_everyone]
        common = [pending for pending in self._pending if pending.of_everyone]
        self._pending = common
        for pending in [*own, *([] if of_everyone else common)]:
            pending.wait()
        if common and of_everyone:
            self._pending = []
            together(lambda: [pending.wait() for pending in common])

    def _target(self, output_dir: _Given) -> Path:
        if self.project.automatic_checkpoint_naming:
            return checked_target(numbering.next_checkpoint(self.project))
        if output_dir is None:
            raise AccelnbError(
                "save_state() needs output_dir, or automatic_checkpoint_naming of a "
                "ProjectConfiguration"
            )
        return checked_target(output_dir)

    def _weights_for(
        self,
        training: Training,
        weights_of: Callable[[nn.Module], dict[str, Any]],
        folder: str,
    ) -> list[dict[str, Any]]:
        models = training.models
        weights = together(
            lambda: [
                parts_of(model) if is_divided(model) and not training.whole else weights_of(model)
                for model in models
            ]
        )
        kept = list(weights)
        given = [extract_model_from_parallel(model) for model in models]
        together(lambda: [hook(given, kept, folder) for hook in self.before_save.values()])
        if not takes_all_ranks(training):
            return kept
        # Each rank has a part of them: what hooks took out on rank 0 goes on all.
        left = of_every_rank([any(one is other for other in kept) for one in weights])[0]
        gone = [one for one, stays in zip(weights, left, strict=True) if not stays]
        return [one for one in kept if not any(one is other for other in gone)]

    # ---- loading ----

    def load(
        self,
        input_dir: _Given,
        load_kwargs: dict[str, Any],
        map_location: str | None,
        strict: bool,
    ) -> None:
        """Read and check everything, then load it."""
        with meeting("load_state", os.fspath(input_dir or ""), "each of them loads its own state"):
            self._load(input_dir, load_kwargs, map_location, strict)

    def _load(
        self,
        input_dir: _Given,
        load_kwargs: dict[str, Any],
        map_location: str | None,
        strict: bool,
    ) -> None:
        self.finish()
        training = self._training()
        location = self._location(map_location)
        folder = self._found(input_dir)
        states = together(lambda: read_states(training, folder, location, load_kwargs))
        weights = together(lambda: self._weights_from(folder, location, strict))
        # After the weights: of another model these tell more.
        together(lambda: check_optimizers(training, states.optimizers, folder))
        states.optimizers, states.custom = together(
            lambda: with_parts(training, states.optimizers, states.custom, folder)
        )
        apply(training, states, weights)
        if states.dropped and training.process.is_main_process:
            warnings.warn(
                f"{folder} has gradients of {states.dropped} batches of an accumulation, of ranks "
                "that divide the model or data in another way: the accumulation starts anew",
                stacklevel=3,
            )
        self._follow_number_of(folder)
        has_random_states = of_every_rank(states.rng is not None)
        lacking = [str(rank) for rank, has in enumerate(has_random_states) if not has]
        if lacking and training.process.is_main_process:
            warnings.warn(
                f"{folder} has no random states for rank {', '.join(lacking)}: there "
                "they stay as they are",
                stacklevel=3,
            )

    def _location(self, map_location: str | None) -> torch.device:
        if map_location not in (None, "cpu", "on_device"):
            raise AccelnbError(f"map_location={map_location}: choose 'cpu' or 'on_device'")
        process = self._training().process
        several_devices = process.use_distributed and process.device.type != "cpu"
        chosen = map_location or ("on_device" if several_devices else "cpu")
        direct = chosen == "on_device" and not records(process.device.type)
        return process.device if direct else torch.device("cpu")

    def _found(self, input_dir: _Given) -> Path:
        process, project = self._training().process, self.project
        if input_dir is not None:
            folder = full_path("input_dir", input_dir)
            together(lambda: recover(folder) if process.is_local_main_process else None)
            return folder
        if not project.automatic_checkpoint_naming:
            raise AccelnbError(
                "load_state() needs input_dir, or automatic_checkpoint_naming of a "
                "ProjectConfiguration"
            )
        latest = together(
            lambda: numbering.latest_checkpoint(project) if process.is_main_process else None
        )
        name = of_every_rank(latest and latest.name)[0]
        return numbering.checkpoints_folder(project) / name

    def _weights_from(
        self, folder: Path, location: torch.device, strict: bool
    ) -> list[tuple[nn.Module, dict[str, Any]]]:
        models = [extract_model_from_parallel(model) for model in self._training().models]
        for hook in self.before_load.values():
            hook(models, str(folder))
        return read_weights([unwrapped(model) for model in models], folder, location, strict)

    def _follow_number_of(self, folder: Path) -> None:
        project = self.project
        if not project.automatic_checkpoint_naming or project.project_dir is None:
            return
        home = numbering.checkpoints_folder(project)
        if home.resolve() == folder.resolve().parent:
            project.iteration = of_every_rank(numbering.following_number(home))[0]


def _raise(failure: Exception | None) -> None:
    if failure is not None:
        raise failure


def _held(files: dict[str, Any], parts: Writing | None) -> dict[str, Any]:
    """Return copies of what this rank writes, which training does not change."""
    if parts is not None:
        parts.hold()
    return copied(files)
