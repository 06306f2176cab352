"""The folder that this process works in, which may be gone."""

from __future__ import annotations

import os


def working_folder() -> str | None:
    """Return the working folder; None if it was removed, or may not be looked up.

    Examples
    --------
    >>> import os
    >>> from accelnb.folder import working_folder
    >>> working_folder() == os.getcwd()
    True
    """
    try:
        return os.getcwd()
    except OSError:
        return None


def folder_to_start_in(instead: str) -> str | None:
    """Return where a new Python is to start: None for here, `instead` if this folder is gone.

    torch cannot be imported in a removed folder: MKL then does not find its own libraries.
    """
    return instead if working_folder() is None else None
