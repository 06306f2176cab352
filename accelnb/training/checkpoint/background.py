"""A save that goes on while training does.

No collectives here: they would get among those of the training. Ranks tell each other by small
files in the folder that they write into.
"""

from __future__ import annotations

import functools
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint.files import replace_file, write
from accelnb.training.checkpoint.manifest import Manifest, read_manifest
from accelnb.training.checkpoint.saving import Save

if TYPE_CHECKING:
    from accelnb.training.checkpoint.sharded import Writing

_LIMIT = 600.0  # seconds that a rank waits for the others' parts
_GRACE = 5.0  # seconds in which a folder that is gone must turn up in its place
_PAUSE = 0.02


class PendingSave:
    """A checkpoint that is being written.

    Attributes
    ----------
    path : str
        Where it will be.
    of_everyone : bool
        Whether all ranks write it.
    """

    def __init__(self, path: str, write: Callable[[], None], of_everyone: bool) -> None:
        self.path = path
        self.of_everyone = of_everyone
        self._write = write
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="accelnb-checkpoint")
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether writing has ended, with or without success."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the checkpoint is in its place; return where.

        Raises
        ------
        AccelnbError
            It could not be written (an error is raised once), or is not done within `timeout`
            seconds.
        """
        self._thread.join(timeout)
        if not self.done:
            raise AccelnbError(f"{self.path} is still being written after {timeout:g} s")
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self.path

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:
            self._error = error


def write_with_others(
    save: Save, files: dict[str, Any], manifest: Manifest, parts: Writing | None
) -> None:
    """Write this rank's part and wait until the checkpoint is in its place."""
    try:
        _write_and_tell(save, files, parts)
        if not save.owns_folder:
            _wait_for_place(save)
            return
        written = _wait_for_writers(save)
        if parts is not None:
            parts.complete(written)
        save.complete(manifest)
    except Exception as error:
        given_up = not save.owns_folder and not save.new_folder.exists()
        save.discard()
        if given_up:
            raise _failed_elsewhere(save) from error
        raise


def add_to_placed(save: Save, files: dict[str, Any]) -> None:
    """Add this rank's files to a checkpoint that rank 0 saves without it, once that is there."""
    try:
        _wait_for_place(save)
        for name, state in files.items():
            replace_file(save.target / name, functools.partial(write, state))
    except (AccelnbError, OSError) as error:
        warnings.warn(
            f"rank {save.rank}: its random states could not be added to {save.target}: {error}",
            stacklevel=2,
        )


def _write_and_tell(save: Save, files: dict[str, Any], parts: Writing | None) -> None:
    try:
        save.write(files)
        written = parts.write() if parts is not None else None
    except Exception:
        with suppress(FileNotFoundError):  # another rank failed, and the folder is gone
            _mark(save, "failed", save.rank).touch()
        raise
    told = _mark(save, "telling", save.rank)
    told.write_bytes(pickle.dumps(written))
    told.rename(_mark(save, "written", save.rank))


def _mark(save: Save, what: str, rank: int) -> Path:
    return save.new_folder / f".{what}-{rank}"


def _wait_for_writers(save: Save) -> list[Any]:
    """Return what each rank tells of its parts, once all have written them."""

    def all_written() -> bool:
        for rank in save.writers:
            if _mark(save, "failed", rank).exists():
                raise AccelnbError(f"rank {rank} could not write its part of {save.target}")
        return all(_mark(save, "written", rank).exists() for rank in save.writers)

    _wait(all_written, f"{save.target}: not all ranks wrote their part within {_LIMIT:g} s")
    told = [_mark(save, "written", rank) for rank in save.writers]
    written = [pickle.loads(path.read_bytes()) for path in told]
    for path in told:
        path.unlink()
    return written


def _wait_for_place(save: Save) -> None:
    seen = time.monotonic()

    def is_placed() -> bool:
        nonlocal seen
        manifest = read_manifest(save.target)
        if manifest is not None and manifest.token == save.token:
            return True
        if save.new_folder.exists():
            seen = time.monotonic()
        if time.monotonic() - seen > _GRACE:
            raise _failed_elsewhere(save)
        return False

    _wait(is_placed, f"{save.target} was not completed by rank {save.writers[0]} in {_LIMIT:g} s")


def _failed_elsewhere(save: Save) -> AccelnbError:
    return AccelnbError(f"{save.target} was not saved: another rank failed")


def _wait(condition: Callable[[], bool], message: str) -> None:
    end = time.monotonic() + _LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AccelnbError(message)
        time.sleep(_PAUSE)
