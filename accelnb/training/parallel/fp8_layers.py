"""Linear layers that compute in fp8, by torchao."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.available import is_torchao_available

F = TypeVar("F", bound=Callable[..., Any])


def torchao_required(function: F) -> F:
    """Make a function say in one line that torchao is not installed, if so."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not is_torchao_available():
            raise AccelnbError(f"{function.__name__} needs torchao: pip install torchao")
        return function(*args, **kwargs)

    return checked  # pyright: ignore[reportReturnType]


def find_first_last_linear_layers(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the names of a model's first and last linear layer.

    These decide accuracy most, and stay as they are.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.training.parallel.fp8_layers import find_first_last_linear_layers
    >>> find_first_last_linear_layers(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))))
    ('0', '3')
    """
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return (names[0], names[-1]) if names else (None, None)


def filter_linear_layers(module: nn.Module, fqn: str, layers_to_filter: Collection[Any]) -> bool:
    """Return whether a layer can compute in fp8: its sizes are multiples of 16.

    Parameters
    ----------
    fqn
        Its name.
    layers_to_filter
        Names of those that are not to.
    """
    if isinstance(module, nn.Linear) and (module.in_features % 16 or module.out_features % 16):
        return False
    return fqn not in layers_to_filter


def filter_first_and_last_linear_layers(module: nn.Module, fqn: str) -> bool:
    """Return whether a layer can compute in fp8 and is neither the first nor the last in itself."""
    return filter_linear_layers(module, fqn, find_first_last_linear_layers(module))


@torchao_required
def convert_model_to_fp8_ao(
    model: nn.Module,
    config: Any = None,
    module_filter_func: Callable[[Any, str], bool] | None = None,
) -> None:
    """Replace linear layers by torchao's, in place.

    The first and the last stay as they are, and so do those whose sizes are no multiples of 16,
    which the matrix product needs.

    Parameters
    ----------
    config : torchao.float8.Float8LinearConfig, optional
        With ``emulate=True`` it runs on any device, slowly.
    module_filter_func
        Called with a module and its name; returns whether it is replaced.

    Raises
    ------
    AccelnbError
        torchao is not installed.
    """
    from torchao.float8 import (  # pyright: ignore[reportMissingImports]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    kept = find_first_last_linear_layers(model)

    def in_the_middle(module: nn.Module, name: str) -> bool:
        # torchao's own is a subclass
        return type(module) is nn.Linear and filter_linear_layers(module, name, kept)

    convert_to_float8_training(
        model,
        config=config or Float8LinearConfig(),
        module_filter_fn=module_filter_func or in_the_middle,
    )


def has_ao_layers(model: nn.Module) -> bool:
    """Return whether a model has layers that compute in fp8 by torchao."""
    return any(type(part).__module__.startswith("torchao.float8.") for part in model.modules())
