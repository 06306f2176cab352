"""Bytes of each rank, by how the ranks share the work and by precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from accelnb.cli.memory_estimate.model_size import ModelSize
from accelnb.errors import AccelnbError
from accelnb.options.mesh import usual_mesh

# What the ranks divide among them instead of having it whole, by strategy.
STRATEGIES = {
    "ddp": frozenset(),
    "zero1": frozenset({"optimizer"}),
    "zero2": frozenset({"optimizer", "gradients"}),
    "fsdp": frozenset({"optimizer", "gradients", "parameters"}),
    "hsdp": frozenset({"optimizer", "gradients", "parameters"}),
}
# The dimensions of a mesh over which `fsdp` divides, and those that have a part of each sequence.
_SHARDS, _SEQUENCE = ("dp_shard", "cp", "sp"), ("cp", "sp")
# Numbers that an optimizer keeps for each parameter, of its type.
OPTIMIZERS = {"adam": 2, "adamw": 2, "sgd-momentum": 1, "sgd": 0}
PRECISIONS = ("no", "fp16", "bf16", "fp8")
_FULL, _HALF = 4, 2  # bytes


@dataclass(frozen=True)
class Need:
    """What one rank needs, in bytes.

    Attributes
    ----------
    copies : int
        What the strategy and the precision need beside: DDP's buckets, FSDP's gathered layers,
        autocast's weights of 16 bits.
    activations : int or None
        None if nothing says how large a batch is.
    """

    strategy: str
    precision: str
    parameters: int
    gradients: int
    optimizer: int
    copies: int
    activations: int | None

    @property
    def total(self) -> int:
        parts = (self.parameters, self.gradients, self.optimizer, self.copies)
        return sum(parts) + (self.activations or 0)


def estimate(
    model: ModelSize,
    *,
    procs: int,
    strategy: str,
    precision: str,
    optimizer: str = "adamw",
    mesh: Mapping[str, int] | None = None,
) -> Need:
    """Return what each of `procs` ranks needs to train a model.

    Parameters, gradients and the optimizer's state are of the model's own type, 32 bits unless it
    says otherwise, in every precision, as under ``torch.autocast``: mixed precision lessens the
    activations alone. What is divided among the ranks follows "ZeRO" (Rajbhandari et al. 2020,
    arXiv:1910.02054): ``zero1`` the optimizer's state, ``zero2`` the gradients too, ``fsdp`` (its
    stage 3) also the parameters. DDP has its gradients a second time, in buckets. FSDP gathers the
    layer that computes and the next one.

    On a mesh `fsdp` divides over ``dp_shard``, ``cp`` and ``sp``, and ``tp`` divides all of that
    once more, as if it did so with every layer. ``cp`` and ``sp`` divide the activations too. By
    default there is none but the ranks in a row.

    Not in it: what CUDA and torch take themselves (about 0.5 to 1 GB) and fragmentation.

    Raises
    ------
    AccelnbError
        There is no such strategy, precision or optimizer.

    Examples
    --------
    >>> from accelnb.cli.memory_estimate import ModelSize, estimate
    >>> model = ModelSize("a model", parameters=1_000_000, largest_layer=100_000)
    >>> need = estimate(model, procs=4, strategy="zero1", precision="no")
    >>> need.parameters, need.optimizer
    (4000000, 2000000)
    >>> mesh = {"dp_shard": 2, "tp": 2}
    >>> estimate(model, procs=4, strategy="fsdp", precision="no", mesh=mesh).parameters
    1000000
    """
    for what, value, choices in (
        ("strategy", strategy, STRATEGIES),
        ("precision", precision, PRECISIONS),
        ("optimizer", optimizer, OPTIMIZERS),
    ):
        if value not in choices:
            raise AccelnbError(f"{what}={value}: choose one of {', '.join(choices)}")
    if procs < 1:
        raise AccelnbError(f"procs={procs}: must be at least 1")
    divided = STRATEGIES[strategy]
    is_sharded = "parameters" in divided
    sizes = dict(mesh or usual_mesh(strategy, procs))
    tensor = sizes.get("tp", 1)
    # ZeRO divides over all copies of a model, which is what `dp_replicate` is to DDP.
    shards = _along(sizes, _SHARDS) if is_sharded else procs // tensor

    def share(part: str, size: int) -> int:
        return -(-size // (tensor * (shards if part in divided else 1)))

    whole, trained = model.parameter_bytes, model.trainable_bytes
    whole = model.parameters * _FULL if whole is None else whole
    trained = model.trainable * _FULL if trained is None else trained
    is_mixed = precision != "no"
    in_half = model.parameters * _HALF
    # Autocast keeps its copies of the weights until the backward pass; sharded ones are gathered
    # in 16 bits instead.
    copies = in_half // tensor if is_mixed and whole > in_half and not is_sharded else 0
    if strategy in ("ddp", "zero1") and procs > 1:
        copies += trained // tensor
    if is_sharded and shards > 1:
        copies += 2 * model.largest_layer * whole // max(1, model.parameters) // tensor
    activations = model.activations
    if activations is not None:
        activations //= _along(sizes, _SEQUENCE) * (2 if is_mixed else 1)
    return Need(
        strategy,
        precision,
        share("parameters", whole) + model.buffers,
        share("gradients", trained),
        share("optimizer", trained * OPTIMIZERS[optimizer]),
        copies,
        activations,
    )


def _along(sizes: Mapping[str, int], names: tuple[str, ...]) -> int:
    return prod(sizes.get(name, 1) for name in names)
