"""What a single card or processor can do in each precision, from public facts about it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Ability(NamedTuple):
    """How well a single card computes in a precision.

    Attributes
    ----------
    level : str
        ``fast``, ``slow`` (it works, but gains no speed) or ``no``.
    why : str
        Of what is not fast.
    """

    level: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.level} ({self.why})" if self.why else self.level


_FAST = Ability("fast")
_NO = Ability("no")
_NO_FP8 = Ability("no", "needs units that this GPU lacks")


def abilities(
    kind: str, version: tuple[int, int] | None = None, features: Collection[str] = ()
) -> dict[str, Ability]:
    """Return what a single card of `kind` can do in each precision, as far as it is known.

    Parameters
    ----------
    kind
        A name of `DEVICES`.
    version
        Compute capability of an NVIDIA GPU, None if it is not known.
    features
        Of a processor: its flags. Of an AMD GPU: its architecture.

    Examples
    --------
    >>> from accelnb.devices import abilities
    >>> str(abilities("cuda", version=(7, 5))["bf16"])
    'slow (emulated; from compute capability 8.0 on it is fast)'
    >>> str(abilities("cuda", version=(9, 0))["fp8"])
    'fast'
    """
    if kind == "cuda":
        return _of_cuda(version or (8, 0))
    if kind == "rocm":
        has_fp8 = any(name.startswith(("gfx94", "gfx95", "gfx12")) for name in features)
        has_bf16 = any(
            name.startswith(("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12"))
            for name in features
        )
        bf16 = _FAST if has_bf16 else Ability("slow", "this GPU has no units for it")
        return {"fp16": _FAST, "bf16": bf16, "fp8": _FAST if has_fp8 else _NO_FP8}
    if kind in ("tpu", "xla"):
        return {"fp16": Ability("no", "TPUs compute in bf16"), "bf16": _FAST, "fp8": _NO}
    if kind == "cpu":
        return {
            "fp16": _of_cpu(features, "amx_fp16", "avx512_fp16"),
            "bf16": _of_cpu(features, "amx_bf16", "avx512_bf16", "bf16"),
            "fp8": _NO,
        }
    if kind in ("xpu", "mps"):
        return {"fp16": _FAST, "bf16": _FAST, "fp8": _NO}
    return {}


def _of_cuda(version: tuple[int, int]) -> dict[str, Ability]:
    fp16 = _FAST if version >= (7, 0) else Ability("slow", "no tensor cores before 7.0")
    bf16 = Ability("slow", "emulated; from compute capability 8.0 on it is fast")
    fp8 = Ability("no", "needs compute capability 8.9")
    return {
        "fp16": fp16,
        "bf16": _FAST if version >= (8, 0) else bf16,
        "fp8": _FAST if version >= (8, 9) else fp8,
    }


def _of_cpu(features: Collection[str], *units: str) -> Ability:
    if any(unit in features for unit in units):
        return _FAST
    return Ability("slow", "it works, but the processor has no units for it")
