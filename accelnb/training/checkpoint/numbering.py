"""Checkpoints that are numbered by themselves: ``PROJECT_DIR/checkpoints/checkpoint_0``, ``_1``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import first_line
from accelnb.training.checkpoint.folder import delete
from accelnb.training.checkpoint.manifest import check_complete
from accelnb.training.configuration import ProjectConfiguration

_NAME = re.compile(r"checkpoint_(\d+)")


def checkpoints_folder(configuration: ProjectConfiguration) -> Path:
    """Return the folder of a project's numbered checkpoints."""
    if configuration.project_dir is None:
        raise AccelnbError(
            "automatic_checkpoint_naming needs a folder: Accelerator(project_dir=...) or "
            "ProjectConfiguration(project_dir=...)"
        )
    return Path(configuration.project_dir).expanduser() / "checkpoints"


def next_checkpoint(configuration: ProjectConfiguration) -> Path:
    """Return where the next checkpoint shall be.

    Raises
    ------
    AccelnbError
        There is one of this number, or `total_limit` leaves room for none.
    """
    limit = configuration.total_limit
    if limit is not None and limit < 1:
        raise AccelnbError(f"total_limit={limit}: must be at least 1, or None")
    folder = checkpoints_folder(configuration)
    path = folder / f"checkpoint_{configuration.iteration}"
    if path.exists():
        raise AccelnbError(
            f"{path} is there already: go on from the latest by load_state(), or keep all by "
            f"project_configuration.iteration = {following_number(folder)}"
        )
    return path


def number_of(checkpoint: Path) -> int:
    """Return the number in a checkpoint's name."""
    return int(checkpoint.name.rpartition("_")[2])


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a folder by their number, lowest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(m.group(1)): path for path in entries if (m := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def following_number(folder: Path) -> int:
    """Return the number after the highest that is there."""
    return max(numbered_checkpoints(folder), default=-1) + 1


def latest_checkpoint(configuration: ProjectConfiguration) -> Path:
    """Return the latest checkpoint that is complete.

    Raises
    ------
    AccelnbError
        There is none.
    """
    folder = checkpoints_folder(configuration)
    for path in reversed(numbered_checkpoints(folder).values()):
        try:
            if check_complete(path) or (path / file_names.random_states(0)).exists():
                return path
            warnings.warn(f"{path} is no complete checkpoint: the one before is used", stacklevel=2)
        except AccelnbError as error:
            warnings.warn(f"{error}: the one before is used", stacklevel=2)
    raise AccelnbError(f"{folder} has no complete checkpoint to load")


def delete_oldest(newest: Path, limit: int | None) -> None:
    """Delete the oldest checkpoints, so that `limit` are left; never the newest.

    A failure is a warning: the checkpoint that was just saved is there.
    """
    others = [p for p in numbered_checkpoints(newest.parent).values() if p.name != newest.name]
    for path in others[: max(0, len(others) + 1 - limit)] if limit is not None else ():
        try:
            delete(path)
        except OSError as error:
            warnings.warn(f"could not delete {path}: {first_line(error)}", stacklevel=2)
