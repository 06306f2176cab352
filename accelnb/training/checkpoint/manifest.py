"""What a checkpoint consists of, written into it last: whether it is complete can be told."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import flush


@dataclass
class Manifest:
    """The contents of a checkpoint.

    Attributes
    ----------
    token : str
        Made for each save: whether a folder is the one that was just written.
    num_processes : int
        How many ranks saved it.
    step : int
        Batches in the accumulation (`Accelerator.step`).
    kinds : dict
        Of ``optimizer`` and ``scheduler``: the names of their classes.
    files : dict
        The size of each file, by its path in the folder.
    shares : list of int
        Which part of the data each rank computed on.
    by_one : bool
        Whether rank 0 saved it without the others, whose random states may have been added.
    """

    token: str
    num_processes: int
    step: int
    kinds: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    shares: list[int] = field(default_factory=list)
    by_one: bool = False

    def write(self, folder: Path) -> None:
        """Write it into a folder, with the files that are there now."""
        self.files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        target = folder / file_names.MANIFEST
        target.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        flush(target)
        flush(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a checkpoint, None if it has none, as one of Accelerate's.

    Raises
    ------
    AccelnbError
        It is damaged.
    """
    path = folder / file_names.MANIFEST
    try:
        return Manifest(**json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, OSError) as error:
        raise AccelnbError(f"{path} cannot be read, it seems damaged: {error}") from None


def check_complete(folder: Path) -> Manifest | None:
    """Return the manifest after a look at every file it names.

    Raises
    ------
    AccelnbError
        A file is missing or has another size.
    """
    manifest = read_manifest(folder)
    for name, size in manifest.files.items() if manifest else ():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            raise AccelnbError(
                f"{folder} is incomplete: {name} is missing; use another checkpoint"
            ) from None
        if found != size:
            raise AccelnbError(
                f"{folder / name} is damaged: it has {found} bytes instead of {size}; use another "
                "checkpoint"
            )
    return manifest
