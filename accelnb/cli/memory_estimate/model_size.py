"""How large a model is: from its class on the meta device, its files, or its configuration."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelnb.errors import AccelnbError

_CONFIG = "config.json"
# The names that Hugging Face's configurations give the same thing.
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads")


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes
    ----------
    name : str
        For people.
    parameters : int
        How many numbers it learns or holds fixed.
    largest_layer : int
        The parameters of its largest layer.
    frozen : int
        Parameters that are not trained.
    buffers : int
        Bytes of other tensors that it holds.
    activations : int or None
        Bytes that a forward pass in 32 bits keeps for the backward pass.
    how : str
        Where `activations` comes from.
    parameter_bytes, trainable_bytes : int or None
        What all and the trained parameters take, if they are not all of 32 bits.
    """

    name: str
    parameters: int
    largest_layer: int
    frozen: int = 0
    buffers: int = 0
    activations: int | None = None
    how: str = ""
    parameter_bytes: int | None = None
    trainable_bytes: int | None = None

    @property
    def trainable(self) -> int:
        return self.parameters - self.frozen


def read_model(
    source: str,
    *,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    sequence: int | None = None,
) -> ModelSize:
    """Find out how large a model is, without making its weights.

    Parameters
    ----------
    source
        ``module:Class`` or ``file.py:Class`` (or a function that returns the model), a
        safetensors file or a folder of such, or a folder with a Hugging Face ``config.json``.
    inputs
        Of a class: the shape of each input of a forward pass, such as ``32x784`` or
        ``8x128:int64``. What autograd keeps of one is counted.
    batch, sequence
        Of a folder with ``config.json``: how many sequences of which length.

    Raises
    ------
    AccelnbError
        There is no such model, or it cannot be made without arguments.

    Examples
    --------
    >>> from accelnb.cli.memory_estimate import read_model
    >>> read_model("torch.nn:Identity").parameters
    0
    """
    path = Path(source)
    if path.name == _CONFIG:
        path = path.parent
    if path.is_dir() or path.suffix == ".safetensors":
        size = _of_files(path)
        fields = _configuration(path)
        if fields is None or batch is None or sequence is None:
            return size
        return _with_transformer_activations(size, fields, batch, sequence)
    module, colon, name = source.rpartition(":")
    if not (module and colon and name):
        raise AccelnbError(
            f"{source}: no such file or folder; for a class say module:Class or file.py:Class"
        )
    return of_model(_make(module, name, source), source, inputs)


# ---- of a class ----


def of_model(model: Any, name: str, inputs: Sequence[str] = ()) -> ModelSize:
    """Return the size of a model; with inputs, it has to be on the meta device."""
    parameters = list(model.parameters())
    size = ModelSize(
        name,
        sum(p.numel() for p in parameters),
        _largest_layer({name: p.numel() for name, p in model.named_parameters()}),
        sum(p.numel() for p in parameters if not p.requires_grad),
        sum(buffer.nbytes for buffer in model.buffers()),
        parameter_bytes=sum(p.nbytes for p in parameters),
        trainable_bytes=sum(p.nbytes for p in parameters if p.requires_grad),
    )
    if not inputs:
        return size
    kept = _kept_for_backward(model, inputs)
    return dataclasses.replace(size, activations=kept, how="counted in a forward pass")


def _make(module: str, name: str, source: str) -> Any:
    import torch
    from torch import nn

    made = getattr(_import(module), name, None)
    if made is None:
        raise AccelnbError(f"{source}: {module} has no {name}")
    try:
        with torch.device("meta"):
            model = made()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise AccelnbError(
            f"{source}: cannot be made without arguments on the meta device "
            f"({type(error).__name__}: {said}); give a function that returns the model"
        ) from error
    if not isinstance(model, nn.Module):
        raise AccelnbError(f"{source}: is a {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(module: str) -> Any:
    try:
        if not module.endswith(".py"):
            sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(module)
        path = Path(module).resolve()
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = loaded
        spec.loader.exec_module(loaded)
        return loaded
    except (Exception, SystemExit) as error:
        said = str(error).strip().partition("\n")[0]
        kind = type(error).__name__
        raise AccelnbError(f"{module}: cannot be imported: {kind}: {said}") from error


def _kept_for_backward(model: Any, inputs: Sequence[str]) -> int:
    """Return the bytes that autograd keeps of a forward pass, without the parameters."""
    import torch

    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    given = [torch.empty(*shape, dtype=kind, device="meta") for shape, kind in map(_input, inputs)]
    model.train()
    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output = model(*given)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise AccelnbError(
            f"--input {' --input '.join(inputs)}: the model cannot take that: {said}"
        ) from error
    del output
    return sum(kept.values())


def _input(text: str) -> tuple[list[int], Any]:
    """Read ``8x128:int64``."""
    import torch

    shape, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    numbers = shape.replace(",", "x").split("x")
    if not all(number.isdigit() for number in numbers) or not isinstance(dtype, torch.dtype):
        raise AccelnbError(f"--input {text}: give a shape such as 32x784, or 8x128:int64")
    return [int(number) for number in numbers], dtype


def _largest_layer(numbers: Mapping[str, int]) -> int:
    """Return how many numbers the largest layer has, by the numbers of each parameter.

    A layer is what a parameter's name says up to its first number: one block of many.
    """
    layers: dict[str, int] = {}
    for name, count in numbers.items():
        parts = name.split(".")[:-1]
        block = next((at + 1 for at, part in enumerate(parts) if part.isdigit()), len(parts))
        layer = ".".join(parts[:block])
        layers[layer] = layers.get(layer, 0) + count
    return max(layers.values(), default=0)


# ---- of files ----


def _of_files(path: Path) -> ModelSize:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        return _of_configuration(path)
    from accelnb.training.checkpoint.weights import shapes_in

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= shapes_in(file)[0]
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    return ModelSize(str(path), sum(numbers.values()), _largest_layer(numbers))


def _of_configuration(folder: Path) -> ModelSize:
    if not (folder / _CONFIG).is_file():
        raise AccelnbError(f"{folder}: has neither *.safetensors nor a {_CONFIG}")
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise AccelnbError(
            f"{folder}: has a {_CONFIG} alone, which only transformers can make a model of: pip "
            "install transformers, or give a folder with *.safetensors"
        ) from None
    import torch

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        named = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
        model = (
            named(config)
            if isinstance(named, type) and named.__name__ != "AutoModel"
            else transformers.AutoModel.from_config(config)
        )
    return of_model(model, str(folder))


def _configuration(path: Path) -> Mapping[str, Any] | None:
    folder = path if path.is_dir() else path.parent
    try:
        return json.loads((folder / _CONFIG).read_text())
    except (OSError, ValueError):
        return None


def _with_transformer_activations(
    size: ModelSize, fields: Mapping[str, Any], batch: int, sequence: int
) -> ModelSize:
    hidden, layers, heads = (_first(fields, names) for names in (_HIDDEN, _LAYERS, _HEADS))
    if not (hidden and layers and heads):
        return size
    kept = transformer_activations(hidden, layers, heads, batch, sequence)
    how = "by the formula of Korthikanti et al. 2022 for transformers"
    return dataclasses.replace(size, activations=kept, how=how)


def transformer_activations(hidden: int, layers: int, heads: int, batch: int, sequence: int) -> int:
    """Return the bytes that a transformer's forward pass in 32 bits keeps.

    ``layers * sequence * batch * hidden * (34 + 5 * heads * sequence / hidden)`` bytes in 16 bits
    (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
    arXiv:2205.05198, equation 2), twice that in 32. Fused attention (``sdpa``) does without the
    second term, recomputation without most of both: it is an upper bound.

    Examples
    --------
    >>> from accelnb.cli.memory_estimate.model_size import transformer_activations
    >>> round(transformer_activations(4096, 32, 32, batch=1, sequence=2048) / 2**30)
    57
    """
    each = sequence * batch * hidden * (34 + 5 * heads * sequence / hidden)
    return round(2 * layers * each)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> int:
    return next((fields[name] for name in names if isinstance(fields.get(name), int)), 0)
