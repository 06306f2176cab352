"""A checkpoint's folder, put in place as a whole: whoever is killed when, one is there.

What is new is written into ``.NAME.saving-TOKEN`` beside the target. If there is no target, one
rename puts it in place. Otherwise both are exchanged in one step (Linux: renameat2), the old one
then being ``.NAME.previous``, which is deleted. Where the system cannot exchange, the target
becomes ``.NAME.previous`` first; after a kill between these two renames `recover`, which every
save and load calls first, puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from accelnb.errors import AccelnbError
from accelnb.options.environment import working_folder
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import first_line, flush
from accelnb.training.checkpoint.manifest import read_manifest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def full_path(argument: str, given: str | os.PathLike[str]) -> Path:
    """Return the real path of what was given for an argument.

    Raises
    ------
    AccelnbError
        It is relative to a working folder that was removed.
    """
    path = os.path.expanduser(given)
    if not os.path.isabs(path) and working_folder() is None:
        raise AccelnbError(f"{argument}={given}: the working folder was removed; give a full path")
    return Path(os.path.realpath(path))


def checked_target(output_dir: str | os.PathLike[str]) -> Path:
    """Return the real path of a folder that a checkpoint shall be.

    Raises
    ------
    AccelnbError
        It is a file, or a folder that cannot be exchanged for another.
    """
    target = full_path("output_dir", output_dir)
    if target.exists() and not target.is_dir():
        raise AccelnbError(f"output_dir={output_dir}: is a file; give a folder")
    if target.is_mount() or Path(working_folder() or "/").is_relative_to(target):
        raise AccelnbError(
            f"output_dir={output_dir}: is a mount point or holds the working directory, and "
            "cannot be replaced as a whole; give a folder in it"
        )
    return target


def staging(target: Path, token: str) -> Path:
    """Return the folder that a save writes into."""
    return target.with_name(f".{target.name}.saving-{token}")


def make_staging(target: Path, token: str) -> None:
    """Clear what dead runs left, and make the folder that this save writes into."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tidy(target)
        staging(target, token).mkdir()
    except OSError as error:
        raise AccelnbError(f"cannot write into {target.parent}: {first_line(error)}") from error


def discard(target: Path, token: str) -> None:
    """Delete what a save that failed has written.

    Under another name first: ranks that still write into it then fail too.
    """
    new, gone = staging(target, token), staging(target, f"{token}-failed")
    if new.is_dir():
        new.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def place(target: Path, token: str) -> None:
    """Put a complete new checkpoint in the place of the target.

    Raises
    ------
    AccelnbError
        The system refused; the target is as it was.
    """
    new, old = staging(target, token), _previous(target)
    try:
        if not target.exists():
            new.rename(target)
            flush(target.parent)
            return
        new.rename(old)  # complete now: `tidy` deletes it if nothing more happens
        if not _exchange(old, target):
            old.rename(new)
            target.rename(old)
            new.rename(target)
        flush(target.parent)
    except OSError as error:
        tidy(target)
        raise AccelnbError(f"cannot replace {target}: {first_line(error)}") from error
    _retire(old, target)


def recover(target: Path) -> None:
    """Put a target back that a killed save had moved away."""
    old = _previous(target)
    if old.is_dir() and not target.exists():
        old.rename(target)


def tidy(target: Path) -> None:
    """Finish or undo what a killed save has left beside a target. Not while one is going on."""
    recover(target)
    old = _previous(target)
    if old.is_dir():
        _retire(old, target)
    for left in target.parent.glob(f".{_escaped(target.name)}.saving-*"):
        shutil.rmtree(left, ignore_errors=True)


def delete(target: Path) -> None:
    """Delete a checkpoint: it is no longer there, or there whole."""
    gone = staging(target, "deleted")
    target.rename(gone)
    shutil.rmtree(gone)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _retire(old: Path, target: Path) -> None:
    """Delete the replaced checkpoint, but keep what others had put into its folder."""
    manifest = read_manifest(old)
    listed = {name.partition("/")[0] for name in manifest.files} if manifest else set()
    for entry in list(old.iterdir()):
        belongs = entry.name in listed or file_names.is_ours(entry.name)
        if not belongs and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # the C library lacks it
        return False
    paths = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other)
    if rename(*paths, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # the file system, or the kernel
        return False
    raise OSError(number, os.strerror(number), str(other))
