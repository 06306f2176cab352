"""Tied weights of models that are put on several devices."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from accelnb.big_model.module_tensors import owner_of


def retie_parameters(model: nn.Module, tied_params: Sequence[Sequence[str]]) -> None:
    """Have each group of names be one parameter again: the first of them that has values.

    Parameters
    ----------
    tied_params
        Groups of names, as `find_tied_parameters` returned them.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import retie_parameters
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> retie_parameters(model, [["0.weight", "1.weight"]])
    >>> model[0].weight is model[1].weight
    True
    """
    for group in tied_params:
        places = [owner_of(model, name) for name in group]
        tensors = [getattr(owner, key) for owner, key in places]
        kept = next((tensor for tensor in tensors if not tensor.is_meta), None)
        if kept is not None:
            for owner, key in places:
                setattr(owner, key, kept)


def check_tied_parameters_in_config(model: nn.Module) -> bool:
    """Return whether a model of transformers says that weights of it are tied.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import check_tied_parameters_in_config
    >>> check_tied_parameters_in_config(nn.Linear(2, 2))
    False
    """
    if "PreTrainedModel" not in [kind.__name__ for kind in type(model).__mro__]:
        return False
    its: Any = model
    config: Any = getattr(its, "config", None)
    of_text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if getattr(of_text, "tie_word_embeddings", False) and its.get_output_embeddings() is not None:
        return True
    if all(getattr(config, it, False) for it in ("is_encoder_decoder", "tie_encoder_decoder")):
        return True
    return any(hasattr(module, "_tie_weights") for module in model.modules())


def warn_if_not_tied(model: nn.Module, tied_params: Sequence[Sequence[str]]) -> None:
    """Warn of a model of transformers whose weights should be tied and are not."""
    if not tied_params and check_tied_parameters_in_config(model):
        warnings.warn(
            f"the weights of this {type(model).__name__} are not tied, though its configuration "
            "says so: call model.tie_weights() first",
            stacklevel=3,
        )
