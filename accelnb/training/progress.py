"""Progress bars, shown once per machine."""

from __future__ import annotations

from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.state import PartialState


def tqdm(*args: Any, main_process_only: bool = True, **kwargs: Any) -> Any:
    """Return a progress bar of tqdm that only the local main process shows.

    Parameters
    ----------
    *args, **kwargs
        Of ``tqdm.auto.tqdm``.
    main_process_only
        Show it on one rank of each machine; otherwise on all.

    Raises
    ------
    AccelnbError
        tqdm is not installed, or the first argument is True or False.

    Examples
    --------
    >>> from accelnb.utils import tqdm
    >>> sum(tqdm(range(4), disable=True))
    6
    """
    if args and isinstance(args[0], bool):
        raise AccelnbError(
            f"tqdm({args[0]}): what to iterate over comes first; pass main_process_only by its name"
        )
    try:
        from tqdm.auto import tqdm as bar
    except ImportError:
        raise AccelnbError("tqdm is not installed: pip install tqdm") from None
    hidden = kwargs.pop("disable", False) or (main_process_only and _local_rank_so_far() != 0)
    return bar(*args, disable=hidden, **kwargs)


def _local_rank_so_far() -> int:
    # A bar does not make the state, which would choose the device and make the process group.
    if PartialState._shared_state:
        return PartialState().local_process_index
    return environment.number("LOCAL_RANK", default=0)
