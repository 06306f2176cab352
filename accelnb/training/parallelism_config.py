"""How processes share the work of a model, by dimension: Accelerate's dataclasses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.options.mesh import MESH_DIMENSIONS, Dimensions
from accelnb.training.configuration import KwargsHandler
from accelnb.training.device_mesh import device_mesh, flattened

_PREFIX = "PARALLELISM_CONFIG_"


@dataclass
class TorchTensorParallelConfig(KwargsHandler):
    """How tensor parallelism divides a model.

    Attributes
    ----------
    enable_async_tp : bool
        Not in this version; it is refused.
    plan : dict, optional
        Patterns of module names (``"blocks.*.attention.query"``), each with a style of
        ``torch.distributed.tensor.parallel`` or a word such as ``"colwise"`` and ``"rowwise"``. By
        default the model's own ``tp_plan``, as those of transformers have.
    sequence_parallel : bool
        Between the divided layers divide the activations too, along the sequence.
    loss_parallel : bool
        Compute the loss from logits that stay divided over the vocabulary.
    """

    enable_async_tp: bool = False
    plan: dict[str, Any] | None = None
    sequence_parallel: bool = False
    loss_parallel: bool = False

    def __post_init__(self) -> None:
        if self.enable_async_tp:
            raise AccelnbError("enable_async_tp=True: not in this version; leave it out")


@dataclass
class TorchContextParallelConfig(KwargsHandler):
    """How attention sees the whole sequence where each process has a part of it (``cp``).

    Attributes
    ----------
    cp_comm_strategy : str
        ``allgather``: each has the keys and values of all; ``alltoall``: they go round in a ring.
    """

    cp_comm_strategy: str | None = None

    def __post_init__(self) -> None:
        name = f"{_PREFIX}CP_COMM_STRATEGY"
        self.cp_comm_strategy = self.cp_comm_strategy or os.environ.get(name, "allgather")
        if self.cp_comm_strategy not in ("allgather", "alltoall"):
            raise AccelnbError(
                f"cp_comm_strategy={self.cp_comm_strategy}: choose one of allgather, alltoall"
            )


@dataclass
class DeepSpeedSequenceParallelConfig(KwargsHandler):
    """Of sequence parallelism by all-to-all (``sp``), which is done by torch here.

    Attributes
    ----------
    sp_seq_length : int, optional
        The length of every sequence, where it is not variable.
    sp_seq_length_is_variable : bool
        Whether sequences may have any length that `sp` divides.
    sp_attn_implementation : str, optional
        Only ``sdpa``, which is ``torch.nn.functional.scaled_dot_product_attention``.
    """

    sp_seq_length: int | None = None
    sp_seq_length_is_variable: bool | None = None
    sp_attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.sp_seq_length_is_variable is None:
            name = f"{_PREFIX}SP_SEQ_LENGTH_IS_VARIABLE"
            self.sp_seq_length_is_variable = environment.flag(name, default=True)
        if not self.sp_seq_length_is_variable and self.sp_seq_length is None:
            self.sp_seq_length = environment.number(f"{_PREFIX}SP_SEQ_LENGTH", default=0) or None
            if self.sp_seq_length is None:
                raise AccelnbError("sp_seq_length_is_variable=False: say sp_seq_length too")
        said = self.sp_attn_implementation or os.environ.get(f"{_PREFIX}SP_ATTN_IMPLEMENTATION")
        if said not in (None, "sdpa"):
            raise AccelnbError(f"sp_attn_implementation={said}: only sdpa is here")
        self.sp_attn_implementation = said


@dataclass
class ParallelismConfig:
    """The number of processes along each dimension of the mesh, of which the product is all.

    What is not given comes from ``PARALLELISM_CONFIG_DP_SHARD_SIZE`` and the like, else is 1.

    Attributes
    ----------
    dp_replicate_size : int
        Copies of the model.
    dp_shard_size : int
        Processes over which weights, gradients and optimizer states are divided; -1 for what is
        left.
    tp_size : int
        Tensor parallelism: processes that share each layer.
    cp_size, sp_size : int
        Processes that have each a part of every sequence; `cp` gathers keys and values, `sp`
        exchanges heads for parts (Ulysses, https://arxiv.org/abs/2309.14509).
    pp_size : int
        Pipeline stages. Not in this version.
    tp_handler, cp_handler, sp_handler
        More about each.
    cp_backend, sp_backend : str
        ``torch``. The ``deepspeed`` that Accelerate names for `sp` means the same algorithm here.
    device_mesh : torch.distributed.DeviceMesh, optional
        One of your own to use instead, with these names of dimensions.

    Examples
    --------
    >>> from accelnb.utils import ParallelismConfig
    >>> config = ParallelismConfig(dp_shard_size=2, tp_size=2)
    >>> config.total_size, config.non_data_parallel_size, config.active_mesh_dims
    (4, 2, ['dp_shard', 'tp'])
    """

    dp_replicate_size: int | None = None
    dp_shard_size: int | None = None
    tp_size: int | None = None
    cp_size: int | None = None
    cp_backend: str | None = None
    sp_size: int | None = None
    sp_backend: str | None = None
    tp_handler: TorchTensorParallelConfig | None = None
    cp_handler: TorchContextParallelConfig | None = None
    sp_handler: DeepSpeedSequenceParallelConfig | None = None
    pp_size: int | None = None
    device_mesh: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in MESH_DIMENSIONS:
            if getattr(self, f"{name}_size") is None:
                variable = f"{_PREFIX}{name.upper()}_SIZE"
                fills = os.environ.get(variable) == "-1"
                said = -1 if fills else environment.number(variable, default=1)
                setattr(self, f"{name}_size", said)
        if self.device_mesh is not None:
            self._follow(self.device_mesh)
        for name, size in self._sizes.items():
            if not isinstance(size, int) or (size < 1 and size != -1):
                said = "must be at least 1, or -1 for what is left"
                raise AccelnbError(f"{name}_size={size}: {said}")
        self.cp_backend = self.cp_backend or os.environ.get(f"{_PREFIX}CP_BACKEND", "torch")
        self.sp_backend = self.sp_backend or os.environ.get(f"{_PREFIX}SP_BACKEND", "deepspeed")
        if self.cp_backend != "torch" or self.sp_backend not in ("torch", "deepspeed"):
            raise AccelnbError(
                f"cp_backend={self.cp_backend}, sp_backend={self.sp_backend}: choose torch"
            )
        if self.cp_enabled and self.sp_enabled:
            raise AccelnbError(
                f"cp_size={self.cp_size}, sp_size={self.sp_size}: a sequence is divided in one of "
                "these ways; leave the other at 1"
            )
        self._check_handlers()

    def _follow(self, mesh: Any) -> None:
        unknown = [name for name in mesh.mesh_dim_names or ("?",) if name not in MESH_DIMENSIONS]
        if unknown:
            known = ", ".join(MESH_DIMENSIONS)
            raise AccelnbError(f"device_mesh: its dimensions must be named, and be of {known}")
        for name, size in zip(mesh.mesh_dim_names, mesh.shape, strict=True):
            setattr(self, f"{name}_size", size)

    def _check_handlers(self) -> None:
        handlers: tuple[tuple[str, type], ...] = (
            ("tp", TorchTensorParallelConfig),
            ("cp", TorchContextParallelConfig),
            ("sp", DeepSpeedSequenceParallelConfig),
        )
        for name, kind in handlers:
            given = getattr(self, f"{name}_handler")
            enabled = self._sizes[name] != 1
            if given is not None and not isinstance(given, kind):
                raise AccelnbError(
                    f"{name}_handler: must be a {kind.__name__}, not a {type(given).__name__}"
                )
            if given is not None and not enabled:
                raise AccelnbError(
                    f"{name}_handler has no effect with {name}_size=1: say {name}_size too, also "
                    f"if --mesh says it, or leave the handler out"
                )
            if given is None and enabled:
                setattr(self, f"{name}_handler", kind())

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: getattr(self, f"{name}_size") for name in MESH_DIMENSIONS}

    @property
    def dimensions(self) -> Dimensions:
        """The dimensions with more than one place, the outermost first."""
        return tuple((name, size) for name, size in self._sizes.items() if size != 1)

    # ---- of Accelerate ----

    def _enabled(self, *names: str) -> list[str]:
        return [name for name in names if self._sizes[name] != 1]

    @property
    def total_size(self) -> int:
        return self.data_parallel_size * self.non_data_parallel_size

    @property
    def data_parallel_size(self) -> int:
        return self._sizes["dp_replicate"] * self._sizes["dp_shard"]

    @property
    def non_data_parallel_size(self) -> int:
        sizes = self._sizes
        return sizes["tp"] * sizes["cp"] * sizes["sp"] * sizes["pp"]

    @property
    def dp_dim_names(self) -> list[str]:
        return self._enabled("dp_replicate", "dp_shard")

    @property
    def non_dp_dim_names(self) -> list[str]:
        return self._enabled("tp", "cp", "sp")

    @property
    def dp_shard_cp_dim_names(self) -> list[str]:
        return self._enabled("dp_shard", "cp")

    @property
    def dp_cp_dim_names(self) -> list[str]:
        return self._enabled("dp_replicate", "dp_shard", "cp")

    @property
    def fsdp_dim_names(self) -> list[str]:
        return [*self._enabled("dp_replicate"), "dp_shard_cp"]

    @property
    def active_mesh_dims(self) -> list[str]:
        return self.dp_dim_names + self.non_dp_dim_names

    @property
    def dp_replicate_enabled(self) -> bool:
        return self.dp_replicate_size != 1

    @property
    def dp_shard_enabled(self) -> bool:
        return self.dp_shard_size != 1

    @property
    def tp_enabled(self) -> bool:
        return self.tp_size != 1

    @property
    def cp_enabled(self) -> bool:
        return self.cp_size != 1

    @property
    def sp_enabled(self) -> bool:
        return self.sp_size != 1

    def build_device_mesh(self, device_type: str) -> Any:
        """Return the ``DeviceMesh`` of all processes; None if every size is 1. A collective."""
        if not self.dimensions:
            return None
        names, sizes = zip(*self.dimensions, strict=True)
        mesh = device_mesh(device_type, names, sizes)
        for joined in ("dp", "dp_shard_cp", "dp_cp"):
            if len(over := getattr(self, f"{joined}_dim_names")) > 1:
                flattened(mesh, tuple(over), joined)
        return mesh

    def get_device_mesh(self, device_type: str | None = None) -> Any:
        """Return `device_mesh`, which is built for a type of device if there is none."""
        if self.device_mesh is None:
            if device_type is None:
                raise AccelnbError("get_device_mesh() needs the type of device to build a mesh for")
            self.device_mesh = self.build_device_mesh(device_type)
        elif device_type not in (None, self.device_mesh.device_type):
            raise AccelnbError(
                f"the device_mesh is of {self.device_mesh.device_type}, not of {device_type}"
            )
        return self.device_mesh

    def to_json(self) -> dict[str, Any]:
        """Return its fields but for the mesh, handlers as dictionaries."""
        fields = {name: value for name, value in vars(self).items() if name != "device_mesh"}
        return {n: dict(vars(v)) if isinstance(v, KwargsHandler) else v for n, v in fields.items()}
