"""``accelnb launch`` with the arguments of ``accelerate launch``, for programs that call these."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options.accelerate_config import as_yaml, default_config_file, fields_of

_STANDS_IN = "accelnb.compat.accelerate"
# Fields of a configuration file of Accelerate that an argument says instead.
_FIELDS = {
    "num_processes": int,
    "num_machines": int,
    "machine_rank": int,
    "main_process_ip": str,
    "main_process_port": int,
    "mixed_precision": str,
    "gradient_accumulation_steps": int,
}
_PARTS = {
    "fsdp": (
        *("activation_checkpointing", "activation_checkpointing_offload", "auto_wrap_policy"),
        *("backward_prefetch", "cpu_ram_efficient_loading", "forward_prefetch", "min_num_params"),
        *("offload_params", "reshard_after_forward", "sharding_strategy", "state_dict_type"),
        *("sync_module_states", "transformer_layer_cls_to_wrap", "use_orig_params", "version"),
    ),
    "parallelism_config": (
        *("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size", "cp_backend"),
        *("cp_comm_strategy", "sp_backend", "sp_attn_implementation", "sp_seq_length"),
        "sp_seq_length_is_variable",
    ),
}
# Those that torchrun has too, and with the same meaning.
_OF_TORCHRUN = ("max_restarts", "monitor_interval", "rdzv_backend", "rdzv_conf", "role", "tee")
_FLAGS = ("cpu", "use_fsdp", "use_parallelism_config", "module", "no_python")
# They say what is so anyway.
_WITHOUT_WORK = ("multi_gpu", "same_network", "tpu", "quiet")


def launch_command_parser(subparsers: Any = None) -> argparse.ArgumentParser:
    """Return what reads the arguments of ``accelerate launch`` that accelnb has.

    Parameters
    ----------
    subparsers
        Of a parser of which this is to be the sub-command ``launch``.

    Examples
    --------
    >>> from accelnb.cli.accelerate_launch import launch_command_parser
    >>> args = launch_command_parser().parse_args(["--num_processes", "2", "train.py", "--lr", "1"])
    >>> args.num_processes, args.training_script, args.training_script_args
    (2, 'train.py', ['--lr', '1'])
    """
    about = "Start a script, with the arguments of accelerate launch."
    if subparsers is None:
        parser = argparse.ArgumentParser("accelerate launch", description=about, allow_abbrev=False)
    else:
        parser = subparsers.add_parser("launch", description=about, allow_abbrev=False)
        parser.set_defaults(func=launch_command)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("-m", dest="module", action="store_true")
    for name, kind in _FIELDS.items():
        _add(parser, name, type=kind)
    for name in _OF_TORCHRUN:
        _add(parser, name)
    for part, names in _PARTS.items():
        for name in names:
            _add(parser, f"{part}_{name}")
    for name in (*_FLAGS, *_WITHOUT_WORK):
        _add(parser, name, action="store_true")
    parser.add_argument("training_script")
    parser.add_argument("training_script_args", nargs=argparse.REMAINDER)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, **how: Any) -> None:
    parser.add_argument(f"--{name}", *{f"--{name.replace('_', '-')}"} - {f"--{name}"}, **how)


def launch_command(args: argparse.Namespace) -> None:
    """Start the script that parsed arguments name, and wait for it.

    Without `config_file` the file of ``accelerate config`` counts, if there is one. Where accelnb
    stands in for accelerate, it does so in the script too.

    Raises
    ------
    SystemExit
        The script failed, with its exit code; or an argument is wrong, with 2.
    AccelnbError
        The number of processes cannot be divided among the machines.
    """
    from accelnb.cli.launch import command

    fields = _fields(args)
    words = list(_words(args, fields))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "accelerate.yaml")
        path.write_text(as_yaml(fields))
        try:
            command.main(
                ["--config-file", str(path), *words],
                prog_name="accelerate launch",
                standalone_mode=False,
            )
        except SystemExit as end:
            if end.code:
                raise


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the configuration file would say, with what the arguments say instead."""
    given = {name: value for name, value in vars(args).items() if value not in (None, False)}
    file = given.get("config_file") or default_config_file
    is_there = "config_file" in given or os.path.isfile(file)
    fields: dict[str, Any] = fields_of(Path(file)) if is_there else {"distributed_type": "NO"}
    fields |= {name: given[name] for name in _FIELDS if name in given}
    for part, names in _PARTS.items():
        section = "fsdp_config" if part == "fsdp" else part
        said = {f"{part}_{n}": given[f"{part}_{n}"] for n in names if f"{part}_{n}" in given}
        if said:
            fields[section] = (fields.get(section) or {}) | said
    if "use_fsdp" in given:
        fields["distributed_type"] = "FSDP"
    if "use_parallelism_config" in given:
        fields["use_parallelism_config"] = True
    if "cpu" in given:
        fields["use_cpu"] = True
    return fields


def _words(args: argparse.Namespace, fields: dict[str, Any]) -> Iterator[str]:
    """Yield arguments of ``accelnb launch``; fields that they say are taken away."""
    machines = int(fields.pop("num_machines", None) or 1)
    if machines > 1:
        total = int(fields.pop("num_processes", None) or machines)
        if total % machines:
            raise AccelnbError(f"num_processes={total}: {machines} machines get equal parts of it")
        yield f"--nnodes={machines}"
        yield f"--nproc-per-node={total // machines}"
        yield f"--node-rank={fields.pop('machine_rank', None) or 0}"
        if address := fields.pop("main_process_ip", None):
            yield f"--master-addr={address}"
    if port := fields.pop("main_process_port", None):
        yield f"--master-port={port}"
    for name in _OF_TORCHRUN:
        if (value := getattr(args, name)) is not None:
            yield f"--{name.replace('_', '-')}={value}"
    if args.no_python:
        yield "--no-python"
    elif _STANDS_IN in sys.modules:
        yield from ("-m", "accelnb.compat")
    if args.module:
        yield "-m"
    yield from (args.training_script, *args.training_script_args)
