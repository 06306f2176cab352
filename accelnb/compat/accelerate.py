"""``import accelnb.compat.accelerate``: code that imports accelerate then gets accelnb.

It has to come first: before anything in the process imports accelerate. From there on
``from accelerate import Accelerator``, ``import accelerate.utils`` and so on find accelnb's
classes and functions, whether accelerate is installed or not, also in processes that this one
spawns. What accelnb lacks cannot be imported, and the error says so; names of whole features that
it lacks (`training.not_here`) can, and say so when they are called.

``accelerate.__version__`` and ``importlib.metadata`` say the version whose names accelnb follows,
whatever is installed: it is what a library gets that asks whether accelerate is new enough.

A script that is not to be changed runs by ``python -m accelnb.compat train.py``.

Examples
--------
>>> import accelnb.compat.accelerate
>>> from accelerate.state import PartialState
>>> PartialState.__module__
'accelnb.training.state'
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from types import ModuleType
from typing import Any

from accelnb.compat import distribution, spawned
from accelnb.errors import AccelnbError
from accelnb.training.enums import LoggerType

FOLLOWS = "1.15.0"

_TRAINING = "accelnb.training"
_UTILS = ("accelnb.utils",)
_CONFIG = "accelnb.options.accelerate_config"
_OF_UTILS = (
    *("deepspeed", "environment", "imports", "launch", "megatron_lm", "memory", "modeling"),
    *("offload", "operations", "other", "random", "torch_xla", "tqdm", "transformer_engine"),
    "versions",
)
# Libraries that look for accelerate once, at their import, and remember what they found.
_ASK_ONCE = ("diffusers", "peft", "sentence_transformers", "transformers", "trl")
_OF_HOOKS = ("hooks", "align_devices", "attaching", "whole_models", "layerwise_casting")
_OF_BNB = ("bnb_layers", "device_map", "left_out", "loading", "offload")
_NOT_ACCELERATES = (LoggerType.ALL, LoggerType.NOTEBOOK)

# Where the names of each module of accelerate are: the first that has a name gives it.
_HOMES: dict[str, tuple[str, ...]] = {
    "accelerate": ("accelnb", *_UTILS),
    "accelerate.accelerator": (
        f"{_TRAINING}.accelerator",
        f"{_TRAINING}.optimizer",
        f"{_TRAINING}.scheduler",
        *_UTILS,
    ),
    "accelerate.big_modeling": ("accelnb", *_UTILS),
    "accelerate.checkpointing": (f"{_TRAINING}.checkpoint",),
    "accelerate.commands": (),
    "accelerate.commands.config": (_CONFIG,),
    "accelerate.commands.config.config_args": (_CONFIG,),
    "accelerate.commands.config.default": (_CONFIG,),
    "accelerate.commands.launch": ("accelnb.cli.accelerate_launch",),
    "accelerate.data_loader": (
        f"{_TRAINING}.data.prepare",
        f"{_TRAINING}.data.sharded_loader",
        f"{_TRAINING}.data.dispatcher",
        f"{_TRAINING}.data.iterable_datasets",
        f"{_TRAINING}.data.samplers",
    ),
    "accelerate.inference": ("accelnb",),
    "accelerate.hooks": tuple(f"accelnb.big_model.{module}" for module in _OF_HOOKS),
    "accelerate.launchers": ("accelnb",),
    "accelerate.local_sgd": (f"{_TRAINING}.local_sgd",),
    "accelerate.logging": (f"{_TRAINING}.logs",),
    "accelerate.memory_utils": (f"{_TRAINING}.memory",),
    "accelerate.optimizer": (f"{_TRAINING}.optimizer",),
    "accelerate.parallelism_config": (f"{_TRAINING}.parallelism_config",),
    "accelerate.scheduler": (f"{_TRAINING}.scheduler",),
    "accelerate.state": (f"{_TRAINING}.state", f"{_TRAINING}.gradients", *_UTILS),
    "accelerate.tracking": (
        f"{_TRAINING}.tracking.base",
        f"{_TRAINING}.tracking.registry",
        *(f"{_TRAINING}.tracking.{name}" for name in LoggerType if name not in _NOT_ACCELERATES),
    ),
    "accelerate.utils": _UTILS,
    "accelerate.utils.bnb": (*(f"accelnb.big_model.quantization.{m}" for m in _OF_BNB), *_UTILS),
    **dict.fromkeys((f"accelerate.utils.{module}" for module in _OF_UTILS), _UTILS),
    "accelerate.utils.ao": (f"{_TRAINING}.parallel.fp8_layers",),
    "accelerate.utils.constants": (*_UTILS, f"{_TRAINING}.constants"),
    "accelerate.utils.dataclasses": (*_UTILS, f"{_TRAINING}.model_parts"),
    "accelerate.utils.fsdp_utils": (
        *_UTILS,
        f"{_TRAINING}.fsdp_names",
        f"{_TRAINING}.model_parts",
    ),
}


class _Alias(ModuleType):
    """A module of accelerate whose names are accelnb's."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return sorted(name for name in self._offered() if not name.startswith("_"))
        if not name.startswith("__"):
            for home in self._homes():
                if _offers(home, name):
                    return getattr(home, name)
            if f"{self.__name__}.{name}" in _HOMES:  # `import accelerate` brings its modules
                return import_module(f"{self.__name__}.{name}")
        raise AttributeError(_missing(f"{self.__name__}.{name}"))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and any(_offers(home, name) for home in self._homes()):
            if isinstance(value, _Alias):
                return  # importing accelerate.utils.tqdm does not hide the function of that name
            warnings.warn(
                f"{self.__name__}.{name} is replaced for those who take it from there; accelnb "
                "itself goes on with its own",
                stacklevel=2,
            )
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        whose = f"{self.__name__}."
        within = (name.removeprefix(whose) for name in _HOMES if name.startswith(whose))
        children = {name.partition(".")[0] for name in within}
        return sorted(children | self._offered() | set(self.__dict__))

    def _offered(self) -> set[str]:
        return {name for home in self._homes() for name in getattr(home, "__all__", dir(home))}

    def _homes(self) -> Iterator[ModuleType]:
        for home in _HOMES[self.__name__]:
            yield import_module(home)


_ANY = DistributionFinder.Context()


class _Finder(DistributionFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "accelerate" and not fullname.startswith("accelerate."):
            return None
        if fullname not in _HOMES:
            # Python asks for this also on `from accelerate.state import X`, if there is no X.
            # It would replace an error that has the module's name by one of its own.
            raise ModuleNotFoundError(_missing(fullname))
        return ModuleSpec(fullname, self, origin=__name__, is_package=True)

    def find_distributions(
        self, context: DistributionFinder.Context = _ANY
    ) -> Iterator[Distribution]:
        return distribution.found(context, FOLLOWS)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name, f"accelnb in the place of {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "accelerate":
            module.__version__ = FOLLOWS  # pyright: ignore[reportAttributeAccessIssue]


def _offers(home: ModuleType, name: str) -> bool:
    public = getattr(home, "__all__", None)
    return name in public if public is not None else hasattr(home, name)


def _missing(name: str) -> str:
    return f"accelnb has no {name}: see docs/parity.md"


def _install() -> None:
    present = sys.modules.get("accelerate")
    if present is not None and not isinstance(present, _Alias):
        raise AccelnbError(
            "accelerate itself is imported already: in a new process (for ranks, %accelnb "
            "restart), import accelnb.compat.accelerate before anything that imports accelerate"
        )
    asked_before = [name for name in _ASK_ONCE if name in sys.modules]
    if asked_before and present is None and importlib.util.find_spec("accelerate") is None:
        warnings.warn(
            f"{', '.join(asked_before)} found no accelerate when imported, and will not look "
            "again: in a new process, import accelnb.compat.accelerate first",
            stacklevel=2,
        )
    sys.meta_path.insert(0, _Finder())
    spawned.carry_over()


_install()
