"""The base of every error that accelnb raises on purpose."""

from __future__ import annotations


class AccelnbError(Exception):
    """Something the user can put right; its text says what happened and what to do.

    IPython and Jupyter show it as that text alone, without a traceback through accelnb.

    Examples
    --------
    >>> from accelnb import AccelnbError
    >>> raise AccelnbError("procs=0: must be at least 1")
    Traceback (most recent call last):
    ...
    accelnb.errors.AccelnbError: procs=0: must be at least 1
    """

    def _render_traceback_(self) -> list[str]:
        # IPython's protocol for an exception that knows how it wants to be shown.
        return [f"{type(self).__name__}: {self}"]
