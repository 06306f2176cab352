"""The units of a model that FSDP shards: modules whose weights are gathered together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallel.blocks import is_stack

Unit = tuple[nn.Module, ...]


def find_units(
    model: nn.Module,
    plugin: FullyShardedDataParallelPlugin,
    ignored: set[nn.Parameter] | frozenset[nn.Parameter] = frozenset(),
) -> list[Unit]:
    """Return the modules that are units, the inner before the outer, without the model itself.

    A unit of several modules is gathered when the first of them is called. Weights that several
    would share are left to what encloses them, so that they stay tied.

    Raises
    ------
    AccelnbError
        The model has no module of a class that was asked for, or trains several types in a module.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
    >>> from accelnb.training.parallel.fully_sharded.units import find_units
    >>> blocks = [torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(4)]
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ModuleList(blocks))
    >>> len(find_units(model, FullyShardedDataParallelPlugin()))
    4
    """
    chosen = {id(part): part for part in _chosen(model, plugin) if _is_called(part)}
    chosen.pop(id(model), None)
    parts = _without_shared_weights(model, list(chosen.values()))
    wanted = {id(part) for part in [*parts, model]}
    units: list[Unit] = []
    for part in _callable_parts(model):
        if id(part) in wanted:
            own = _own_parameters(part, parts, ignored)
            units += _of_other_types(model, part, own)
            units += [(part,)] if own and part is not model else []
    return units


def outermost_units(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[nn.Module]:
    """Return the modules that are units and are not within others."""
    parts = [
        part
        for unit in find_units(model, plugin, ignored_parameters(model, plugin))
        for part in unit
    ]
    within = {id(inner) for part in parts for inner in part.modules() if inner is not part}
    return [part for part in parts if id(part) not in within]


def ignored_parameters(
    model: nn.Module, plugin: FullyShardedDataParallelPlugin
) -> set[nn.Parameter]:
    """Return the parameters that stay whole: of ignored modules, and those without a dimension.

    Raises
    ------
    AccelnbError
        No module is so called.
    """
    wanted = plugin.ignored_modules or ()
    if isinstance(wanted, str):
        modules = [part for name, part in model.named_modules() if re.fullmatch(wanted, name)]
        if not modules:
            raise AccelnbError(
                f"ignored_modules={wanted!r}: no module of this {type(model).__name__} is so "
                "called (the expression has to fit the whole name)"
            )
    else:
        modules = list(wanted)
    of_modules = {parameter for part in modules for parameter in part.parameters()}
    own = of_modules & set(model.parameters())
    return own | {parameter for parameter in model.parameters() if parameter.dim() == 0}


def _chosen(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[nn.Module]:
    policy = plugin.auto_wrap_policy
    if policy is None:
        return []
    classes: set[type] = set()
    if policy == "REPEATED_BLOCKS":
        classes = plugin.no_split_classes(model)
        if not classes:
            return list(_blocks_in_lists(model))
    if policy == "TRANSFORMER_BASED_WRAP":
        classes = plugin.unit_classes(model)
    if classes:
        return [part for part in _callable_parts(model) if type(part) in classes]
    if policy == "SIZE_BASED_WRAP":
        least = plugin.min_num_params or 0
        return _accepted(model, lambda module, recurse, nonwrapped_numel: nonwrapped_numel >= least)
    return _accepted(model, policy)  # pyright: ignore[reportArgumentType]


def _blocks_in_lists(module: nn.Module, name: str = "") -> Iterator[nn.Module]:
    """Yield the blocks of a model's lists, also where they are of several classes.

    No experts: not all of them compute on every rank, and as units they would be waited for.
    """
    have_parts = [any(child.children()) for child in module.children()]
    is_list = isinstance(module, nn.ModuleList) and all(have_parts)
    if "expert" in name.lower():
        return
    if is_stack(module) or is_list:
        yield from module.children()
        return
    for name, child in module.named_children():
        yield from _blocks_in_lists(child, name)


def _accepted(model: nn.Module, policy: Callable[..., bool]) -> list[nn.Module]:
    """Return what a policy of ``torch.distributed.fsdp.wrap`` accepts, inner modules first."""
    chosen: list[nn.Module] = []
    for part in _callable_parts(model):
        if part is model or not _is_called(part):
            continue
        count = sum(p.numel() for p in _own_parameters(part, chosen, frozenset()))
        if policy(module=part, recurse=False, nonwrapped_numel=count):
            chosen.append(part)
    return chosen


def _is_called(module: nn.Module) -> bool:
    """Return whether a module computes, and does not only hold others."""
    return type(module).forward is not nn.Module.forward


def _callable_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules within a module, and then itself, but for those that are never called."""
    seen: set[int] = set()

    def walk(part: nn.Module) -> Iterator[nn.Module]:
        if id(part) in seen:
            return
        seen.add(id(part))
        if not isinstance(part, nn.MultiheadAttention):  # takes the weights of its output layer
            for child in part.children():
                yield from walk(child)
        yield part

    yield from walk(module)


def _own_parameters(
    module: nn.Module, units: list[nn.Module], ignored: set[nn.Parameter] | frozenset[nn.Parameter]
) -> list[nn.Parameter]:
    """Return the parameters of a module that no unit within it has."""
    inner = {id(unit) for unit in units} - {id(module)}
    found: dict[nn.Parameter, None] = {}

    def walk(part: nn.Module) -> None:
        found.update((p, None) for p in part._parameters.values() if p is not None)
        for child in part.children():
            if id(child) not in inner:
                walk(child)

    walk(module)
    return [parameter for parameter in found if parameter not in ignored]


def _without_shared_weights(model: nn.Module, units: list[nn.Module]) -> list[nn.Module]:
    """Return the units without those that have a weight which is another's too."""
    while True:
        owners: dict[nn.Parameter, int] = Counter()
        for part in [*units, model]:
            owners.update(_own_parameters(part, units, frozenset()))
        shared = {parameter for parameter, count in owners.items() if count > 1}
        kept = [u for u in units if shared.isdisjoint(_own_parameters(u, units, frozenset()))]
        if len(kept) == len(units):
            return units
        units = kept


def _of_other_types(model: nn.Module, unit: nn.Module, own: list[nn.Parameter]) -> list[Unit]:
    """Return units for the modules in a unit that train in another type than most of it does.

    FSDP reduces the gradients of a unit together, and so in one type.
    """
    sizes: Counter[torch.dtype] = Counter()
    for parameter in own:
        sizes[parameter.dtype] += parameter.numel() * parameter.requires_grad
    trained = [kind for kind, size in sizes.most_common() if size]
    if len(trained) < 2:
        return []
    odd = {p for p in own if p.requires_grad and p.dtype != trained[0]}
    by_type: dict[torch.dtype, list[nn.Module]] = defaultdict(list)
    for part in _callable_parts(unit):
        direct = {p for p in part._parameters.values() if p is not None}
        if not direct & odd:
            continue
        types = {p.dtype for p in direct if p.requires_grad}
        if len(types) == 1 and part is not unit and _is_called(part) and not any(part.children()):
            by_type[types.pop()].append(part)
            odd -= direct
    if odd:
        names = [f"{name} ({p.dtype})" for name, p in model.named_parameters() if p in odd]
        raise AccelnbError(
            f"FSDP trains one type in a unit, and {', '.join(names[:3])}"
            f"{' ...' if len(names) > 3 else ''} differ from the {trained[0]} of the rest of their "
            f"{type(unit).__name__}: convert or freeze them, or name their modules in "
            "ignored_modules"
        )
    return [tuple(modules) for modules in by_type.values()]
