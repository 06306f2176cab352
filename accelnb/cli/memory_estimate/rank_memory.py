"""Bytes of each rank, by how the ranks share the work and by precision."""

from __future__ import annotations

from dataclasses import dataclass

from accelnb.cli.memory_estimate.model_size import ModelSize
from accelnb.errors import AccelnbError

# What the ranks divide among them instead of having it whole, by strategy.
STRATEGIES = {
    "ddp": frozenset(),
    "zero1": frozenset({"optimizer"}),
    "zero2": frozenset({"optimizer", "gradients"}),
    "fsdp": frozenset({"optimizer", "gradients", "parameters"}),
}
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
    model: ModelSize, *, procs: int, strategy: str, precision: str, optimizer: str = "adamw"
) -> Need:
    """Return what each of `procs` ranks needs to train a model.

    Parameters, gradients and the optimizer's state are of the model's own type, 32 bits unless it
    says otherwise, in every precision, as under ``torch.autocast``: mixed precision lessens the
    activations alone. What is divided among the ranks follows "ZeRO" (Rajbhandari et al. 2020,
    arXiv:1910.02054): ``zero1`` the optimizer's state, ``zero2`` the gradients too, ``fsdp`` (its
    stage 3) also the parameters. DDP has its gradients a second time, in buckets. FSDP gathers the
    layer that computes and the next one.

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

    def share(part: str, size: int) -> int:
        return -(-size // procs) if part in divided else size

    whole, trained = model.parameter_bytes, model.trainable_bytes
    whole = model.parameters * _FULL if whole is None else whole
    trained = model.trainable * _FULL if trained is None else trained
    is_mixed = precision != "no"
    in_half = model.parameters * _HALF
    copies = max(0, whole - in_half) if is_mixed and strategy != "fsdp" else 0
    if strategy in ("ddp", "zero1") and procs > 1:
        copies += trained
    if strategy == "fsdp":
        numbers = 2 * model.largest_layer
        copies += numbers * _HALF if is_mixed else numbers * whole // max(1, model.parameters)
    activations = model.activations
    if activations is not None and is_mixed:
        activations //= 2
    return Need(
        strategy,
        precision,
        share("parameters", whole) + model.buffers,
        share("gradients", trained),
        share("optimizer", trained * OPTIMIZERS[optimizer]),
        copies,
        activations,
    )
