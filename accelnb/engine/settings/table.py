"""Settings of the notebook's process that its ranks hold too: one table, a row a setting.

Each is made once at the top of a notebook and never named again, so that no cell shows that it
is needed. Ranks start with those that differ from the library's default, and are told again when
one changed. A library that the notebook has not imported has nothing to hold, and is not imported
to see that. The states of random number generators are not held: ranks seed themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelnb.engine.settings import of_libraries, of_logging, of_python, of_torch


def _itself(state: Any) -> Any:
    return state


@dataclass(frozen=True)
class Setting:
    """One row: how a setting is read in the notebook, and how it is set on a rank.

    Attributes
    ----------
    name : str
        What a person calls it.
    module : str
        Of the library, which the notebook must have imported for there to be anything to read.
    read : callable
        Returns its state, given that module. Called before each cell: it has microseconds.
    hold : callable
        Sets a value on a rank. Where it has several parts, it is given all that differ.
    default : object
        The value of a fresh process, which is not sent.
    kept : callable
        Makes of a state what can be compared with later ones, if it changes in place.
    value : callable
        Makes of a state the value that travels.
    """

    name: str
    module: str
    read: Callable[[Any], Any]
    hold: Callable[[Any], None]
    default: Any
    kept: Callable[[Any], Any] = _itself
    value: Callable[[Any], Any] = _itself


_torch, _lib, _py, _log = of_torch, of_libraries, of_python, of_logging
TABLE = (
    Setting("torch's default dtype", "torch", _torch.read_dtype, _torch.hold_dtype, "float32"),
    Setting(
        "torch's default device", "torch", _torch.read_default_device, _torch.hold_default_device,
        None,
    ),
    Setting(
        "the precision of fp32 products", "torch", _torch.read_fp32, _torch.hold_fp32,
        _torch.FP32_DEFAULT,
    ),
    Setting(
        "torch's deterministic algorithms", "torch", _torch.read_determinism,
        _torch.hold_determinism, (False, False, True),
    ),
    Setting(
        "torch.backends.cudnn", "torch", _torch.read_cudnn, _torch.hold_cudnn, (True, False, False)
    ),
    Setting(
        "torch's attention kernels", "torch", _torch.read_attention, _torch.hold_attention,
        (True, True, True, True),
    ),
    Setting(
        "torch's print options", "torch._tensor_str", _torch.read_print_options,
        _torch.hold_print_options, _torch.PRINT_OPTIONS,
    ),
    Setting("torch's grad mode", "torch", _torch.read_grad_mode, _torch.hold_grad_mode, True),
    Setting(
        "torch's anomaly detection", "torch", _torch.read_anomaly_detection,
        _torch.hold_anomaly_detection, (False, True),
    ),
    Setting(
        "torch's number of threads", "torch", _torch.Threads().read, _torch.hold_threads, None
    ),
    Setting(
        "torch's sharing strategy", "torch.multiprocessing", _torch.read_sharing_strategy,
        _torch.hold_sharing_strategy, "file_descriptor",
    ),
    Setting(
        "numpy's print options", "numpy", _lib.read_print_options_of_numpy,
        _lib.hold_print_options_of_numpy, _lib.NUMPY_PRINTS,
    ),
    Setting(
        "numpy.seterr", "numpy", _lib.read_float_errors, _lib.hold_float_errors,
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    Setting(
        "pandas' options", "pandas._config.config", _lib.read_options_of_pandas,
        _lib.hold_options_of_pandas, {}, _lib.copied, _lib.changed_of_pandas,
    ),
    Setting(
        "matplotlib's rcParams", "matplotlib", _lib.read_matplotlib, _lib.hold_matplotlib, {},
        value=_lib.changed_of_matplotlib,
    ),
    Setting(
        "the recursion limit", "sys", _py.read_recursion_limit, _py.hold_recursion_limit, 1000
    ),
    Setting(
        "the decimal context", "decimal", _py.read_decimal, _py.hold_decimal, _py.DECIMAL_DEFAULT,
        value=_py.described_decimal,
    ),
    Setting(
        "multiprocessing's start method", "multiprocessing", _py.read_start_method,
        _py.hold_start_method, None,
    ),
    Setting(
        "the warnings filters", "warnings", _py.read_filters, _py.hold_filters, None, list,
        _py.described_filters,
    ),
    Setting("logging.captureWarnings", "logging", _py.read_capture, _py.hold_capture, False),
    Setting(
        "logging's levels and handlers", "logging", _log.read_loggers, _log.hold_loggers, None,
        _log.kept_loggers, _log.described_loggers,
    ),
)  # fmt: skip
BY_NAME = {setting.name: setting for setting in TABLE}
