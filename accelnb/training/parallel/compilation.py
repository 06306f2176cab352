"""Models compiled by torch.compile, whole or block by block.

They are changed in place: a model keeps its class, its modules and the keys of its state_dict, so
there is nothing to unwrap. A copy of it, and what is read back from a pickle, is not compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from accelnb.training.configuration import TorchDynamoPlugin
from accelnb.training.enums import DynamoBackend
from accelnb.training.parallel.activation_checkpointing import is_checkpointed
from accelnb.training.parallel.blocks import is_stack, repeated_blocks
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan


def apply_compilation(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Compile a model, if that is asked for."""
    return compile_model(model, plan.compilation)


def compile_model(model: nn.Module, plugin: TorchDynamoPlugin) -> nn.Module:
    """Compile a model in place as the settings say; return it.

    It compiles when it is first called. A model that is compiled already, or has compiled parts,
    is left as it is. Of one that DDP wraps the inner model is compiled: DDP's own hooks then still
    average gradients while the backward pass runs.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.compilation import compile_model
    >>> from accelnb.utils import TorchDynamoPlugin
    >>> model = compile_model(torch.nn.Linear(2, 1), TorchDynamoPlugin(backend="eager"))
    >>> list(model.state_dict())
    ['weight', 'bias']
    """
    if plugin.disable or plugin.backend == DynamoBackend.NO:
        return model
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if _is_compiled(inner) or has_compiled_regions(inner):
        return model
    if plugin.use_regional_compilation:
        compile_regions(inner, **plugin.to_kwargs())
    else:
        _compile_in_place(inner, plugin.to_kwargs())
    return model


def compile_regions(module: nn.Module, **compile_kwargs: Any) -> nn.Module:
    """Compile the blocks that a model repeats, in place, and return the model.

    The blocks of an ``nn.ModuleList`` or ``nn.Sequential`` that are all of one class share their
    compiled code, so a deep stack costs the time of one block. What else the model is made of is
    compiled part by part, but for single layers, which have nothing to gain. A model without such
    blocks is compiled whole.

    Parameters
    ----------
    **compile_kwargs
        Of ``torch.compile``.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import compile_regions, has_compiled_regions
    >>> blocks = [torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(4)]
    >>> model = compile_regions(torch.nn.Sequential(*blocks), backend="eager")
    >>> has_compiled_regions(model), list(model.state_dict())[0]
    (True, '0.self_attn.in_proj_weight')
    """
    if not any(True for _ in repeated_blocks(module)):
        _compile_in_place(module, compile_kwargs)
    else:
        for region in _regions(module):
            if not _is_compiled(region):
                _compile_in_place(region, compile_kwargs)
    return module


def is_compiled_module(module: nn.Module) -> bool:
    """Return whether a module is what ``torch.compile(module)`` returns, with an ``_orig_mod``.

    One that was compiled in place has none, and needs none.
    """
    return isinstance(module, torch._dynamo.eval_frame.OptimizedModule)


def compile_regions_fsdp2(module: nn.Module, **compile_kwargs: Any) -> nn.Module:
    """Do what `compile_regions` does: it leaves a sharded model sharded."""
    return compile_regions(module, **compile_kwargs)


def has_compiled_regions(module: nn.Module) -> bool:
    """Return whether a part of a module is compiled, in place or not."""
    return any(_is_compiled(part) for part in module.modules() if part is not module)


def _regions(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what to compile, each for itself: repeated blocks, and the parts that have none."""
    if is_stack(module):
        yield from module.children()
        return
    for child in module.children():
        if any(True for _ in repeated_blocks(child)) or _is_never_called(child):
            yield from _regions(child)
        elif not _is_single_layer(child):
            yield child


def _is_never_called(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).forward.__module__.startswith("torch.nn.")


def _is_single_layer(module: nn.Module) -> bool:
    return _is_of_torch(module) and not any(True for _ in module.children())


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or is_compiled_module(module)


def _compile_in_place(module: nn.Module, options: dict[str, Any]) -> None:
    if not _is_of_torch(module) and not is_checkpointed(module):
        module.compile(**options)
        return

    # nn.Module.compile compiles nothing, and does not say so, where the forward is torch's own, as
    # of nn.Sequential, or is checkpointed: torch compiles such code only as part of other code.
    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    module._compiled_call_impl = torch.compile(call, **options)
