"""`pull`, `push` and `last_run`: what the notebook's code may ask of the cells' ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from IPython.core.getipython import get_ipython

from accelnb.engine.run import RankResults, Run
from accelnb.errors import AccelnbError
from accelnb.notebook.extension import session_of
from accelnb.notebook.session import Session
from accelnb.options.config import CellOptions, from_mapping


def pull(name: str, ranks: str | Iterable[int] | None = None) -> RankResults:
    """Bring a variable back from the ranks of `%%distributed` cells.

    Large tensors and arrays are copied once, by the rank, and mapped here. CUDA tensors come
    as CPU tensors, a DTensor as the full tensor, for which all its ranks have to take part.

    Parameters
    ----------
    name
        The variable's name on the ranks.
    ranks
        Which ranks: ``"0,2-3"`` or numbers; all by default.

    Returns
    -------
    values : RankResults
        ``values[1]`` is rank 1's.

    Raises
    ------
    AccelnbError
        A rank has no such variable (says which have it), its value cannot be brought back,
        or the ranks are busy.

    Examples
    --------
    >>> accelnb.pull("loss")  # doctest: +SKIP
    [0: 0.25, 1: 0.5]
    """
    options = _checked("pull", [name], ranks)
    return _session().pull(options.pull, options.ranks)[name]


def push(*names: str, ranks: str | Iterable[int] | None = None) -> None:
    """Bind variables on the ranks to the values that they have in the notebook.

    A cell is sent what it uses anyway. This is for a variable that the ranks have assigned
    themselves, and for one that is to be there before a cell needs it.

    Parameters
    ----------
    *names
        Variables of the notebook.
    ranks
        Which ranks: ``"0,2-3"`` or numbers; all by default.

    Raises
    ------
    AccelnbError
        The notebook has no such variable, it cannot be sent, or the ranks are busy.

    Examples
    --------
    >>> learning_rate = 0.1
    >>> accelnb.push("learning_rate")  # doctest: +SKIP
    """
    options = _checked("push", names, ranks)
    _session().push(options.pull, options.ranks)


def last_run() -> Run:
    """Return the newest `Run` of a `%%distributed` cell: its metrics, logs and state.

    Raises
    ------
    AccelnbError
        There was none yet.

    Examples
    --------
    >>> accelnb.last_run().metrics["loss"][0][-1].value  # doctest: +SKIP
    0.25
    """
    run = _session().last_run
    if run is None:
        raise AccelnbError("no %%distributed cell was run yet")
    return run


def _checked(function: str, names: Sequence[str], ranks: str | Iterable[int] | None) -> CellOptions:
    if not names or not all(isinstance(name, str) for name in names):
        raise AccelnbError(f"{function}: name the variables, as in accelnb.{function}('a')")
    return from_mapping(CellOptions, {"pull": names, "ranks": ranks})


def _session() -> Session:
    session = session_of(get_ipython())
    if session is None:
        raise AccelnbError("run %load_ext accelnb first: there are no ranks of cells without it")
    return session
