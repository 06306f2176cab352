"""Files that appear whole or not at all, and replace none that is there unless told to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from accelnb.export.cells.notebook_file import ExportError


def write_files(files: Mapping[Path, str], *, force: bool) -> None:
    """Write texts to files: all of them, or none if one is there already.

    Parameters
    ----------
    force
        Replace files that are there.

    Raises
    ------
    ExportError
        A file is there, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.export.output_files import write_files
    >>> path = Path(tempfile.mkdtemp(), "train.py")
    >>> write_files({path: "print(1)"}, force=False)
    >>> path.read_text()
    'print(1)'
    """
    for path in files:
        if path.is_dir():
            raise ExportError(f"{path} is a folder: give the name of a file")
        if not force and (path.exists() or path.is_symlink()):
            raise ExportError(f"{path} is there already: give --force to replace it")
        if not path.parent.is_dir():
            raise ExportError(f"{path} cannot be written: there is no folder {path.parent}")
    unfinished: dict[Path, Path] = {}
    path = next(iter(files))
    try:
        for path, text in files.items():
            unfinished[path] = path.with_name(f".{path.name}.{os.getpid()}")
            unfinished[path].write_text(text, encoding="utf-8")
        for path, new in unfinished.items():
            os.replace(new, path)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        for new in unfinished.values():
            with contextlib.suppress(OSError):
                new.unlink()
