"""Files that are not Python: the front end's scripts and the kernelspecs."""

from __future__ import annotations

from pathlib import Path

from accelnb.errors import AccelnbError

_PACKAGE = Path(__file__).parent.parent
# In the wheel they are part of the package, in a clone they lie beside it.
_FOLDERS = (_PACKAGE / "_assets", _PACKAGE.parent)


def asset(name: str) -> Path:
    """Return where a file or folder that is shipped with accelnb lies.

    Parameters
    ----------
    name
        Its path in the repository, such as ``widgets/dist/run.js`` or ``kernels``.

    Raises
    ------
    AccelnbError
        This installation lacks it.

    Examples
    --------
    >>> from accelnb.jupyter.assets import asset
    >>> asset("widgets/dist/run.js").suffix
    '.js'
    """
    for folder in _FOLDERS:
        if (folder / name).exists():
            return folder / name
    raise AccelnbError(f"{name} is not part of this installation of accelnb; install it again")
