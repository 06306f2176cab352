"""`accelnb.show`: which weight of a model is split how over which ranks."""

from __future__ import annotations

from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.display.picture import picture_of
from accelnb.training.display.picture_html import as_html
from accelnb.training.display.picture_text import as_text
from accelnb.training.parallel.unwrapping import extract_model_from_parallel


def show(model: nn.Module) -> None:
    """Show which weight of a model is split how over which ranks, and how much each rank holds.

    In a notebook it is a picture, elsewhere a table of text. The lowest of the ranks that share
    the model shows it, the others nothing, so all of them may call it; none waits for another.

    Parameters
    ----------
    model
        As `prepare` returned it, or any other module.

    Raises
    ------
    AccelnbError
        It is no module.

    Examples
    --------
    >>> import accelnb
    >>> import torch
    >>> accelnb.show(torch.nn.Linear(2, 1))
    Linear on 1 rank: 12 B
    weight  shape  dtype    split  ranks  each rank  all
    weight  1 x 2  float32  whole  0      8 B        8 B
    bias    1      float32  whole  0      4 B        4 B
    """
    if not isinstance(model, nn.Module):
        raise AccelnbError(f"show: give it a torch.nn.Module, not a {type(model).__name__}")
    picture = picture_of(extract_model_from_parallel(model, keep_torch_compile=False))
    if picture.ranks and picture.rank != picture.ranks[0]:
        return
    shell = _notebook()
    if shell is None:
        print(as_text(picture))
        return
    from IPython.display import display

    display({"text/html": as_html(picture), "text/plain": as_text(picture)}, raw=True)


def _notebook() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()
