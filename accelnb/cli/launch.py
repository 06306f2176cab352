"""``accelnb launch``: a script, module or notebook on several processes, as torchrun does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from accelnb.cli.options import given, launch_options
from accelnb.options import config
from accelnb.options.config import ConfigError, LaunchConfig
from accelnb.options.config_file import FILE, read_file
from accelnb.options.environment import BY_OPTION

if TYPE_CHECKING:
    from accelnb.cli.launching.config_file import GivenFile
    from accelnb.cli.launching.target import Target

# Of the launch options, those that a script can take over; the others are of notebooks.
_OF_SCRIPTS = ("procs", "device", *BY_OPTION)
_OF_NOTEBOOKS = {option.name for option in config.options(LaunchConfig)}.difference(_OF_SCRIPTS)
_TORCHRUN = "Arguments of torchrun"
_OF_TORCHRUN_ALONE = ("help", "training_script", "training_script_args")


class _Launch(click.RichCommand):
    """A command that has torchrun's arguments too, as the installed torch declares them."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from accelnb.cli.launching.torchrun import parser

        if not any(parameter.name == "nnodes" for parameter in self.params):
            self.params += [
                click.RichOption(
                    (action.dest, *(flag for flag in action.option_strings if "_" not in flag)),
                    panel=_TORCHRUN,
                    is_flag=action.nargs == 0,
                    default=None,
                    metavar="|".join(map(str, action.choices or ())) or None,
                    help=(action.help or "").replace("%%", "%"),
                )
                for action in parser()._actions
                if action.dest not in _OF_TORCHRUN_ALONE
            ]
        return super().get_params(ctx)


def _with_dashes(flag: str) -> str:
    return flag.replace("_", "-")  # torchrun takes both


@click.command(
    cls=_Launch,
    context_settings={"allow_interspersed_args": False, "token_normalize_func": _with_dashes},
)
@click.option_panel("Options")
@click.option_panel(_TORCHRUN)
@launch_options(without=_OF_NOTEBOOKS)
@click.option(
    "--config-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="an accelnb.yaml, or what accelerate config writes, instead of the accelnb.yaml beside",
)
@click.option("--ignore-file", is_flag=True, help="do without the accelnb.yaml beside the script")
@click.argument("target", metavar="SCRIPT|NOTEBOOK|MODULE", type=click.Path(readable=False))
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.Path(readable=False))
def command(
    target: str,
    arguments: tuple[str, ...],
    config_file: Path | None,
    ignore_file: bool,
    **options: Any,
) -> None:
    """Start a training script on several processes, here or on several machines.

    ARGS are the script's own. What is not given comes from the notebook's first distributed cell,
    then from the accelnb.yaml beside it or the script, then from this machine: one process for
    each accelerator, else two on the CPU. precision, outputs, strategy, mesh and accumulation
    reach the script's Accelerator. torchrun's arguments have torchrun's meaning; processes that
    mpirun or srun started run the script in place. The exit code is the script's.

    \b
    Examples:
      accelnb launch train.py --lr 0.1
      accelnb launch -n 4 --precision bf16 -m project.train
      accelnb launch --strategy fsdp --mesh dp_shard=2,tp=2 train.py
      accelnb launch --config-file accelerate.yaml train.py
      accelnb launch notebook.ipynb
      accelnb launch --nnodes 2 --rdzv-endpoint node1:29400 train.py    on both
      accelnb launch --max-restarts 3 train.py
      srun --ntasks 8 accelnb launch train.py
    """
    from accelnb.cli.launching import find_target, launch
    from accelnb.cli.launching.config_file import read_config_file
    from accelnb.cli.launching.reachable_address import NotReachable
    from accelnb.cli.launching.target import NothingToLaunch
    from accelnb.cli.launching.torchrun import WrongArgument

    asked = given(options)
    of_torchrun = {name: value for name, value in options.items() if name not in _OF_SCRIPTS}
    try:
        if "procs" in asked and of_torchrun.get("nproc_per_node"):
            raise WrongArgument("--procs and --nproc-per-node say the same; give one of them")
        file = read_config_file(config_file) if config_file else None
        found = find_target(
            target,
            arguments,
            module=bool(of_torchrun.get("module")),
            program=bool(of_torchrun.get("no_python")),
            base=LaunchConfig() if ignore_file or file else None,
            device=asked.get("device"),
        )
        settings = (_of_file(file) if file else _beside(found, ignore_file)) | asked
        resolved = _resolved(settings, bool(of_torchrun.get("nproc_per_node")))
        variables = file.variables_beside(asked) if file else {}
        code = launch(found, of_torchrun, resolved, settings, variables)
    except (ConfigError, NotReachable, NothingToLaunch, WrongArgument) as error:
        print(f"accelnb: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code)


def _of_file(file: GivenFile) -> dict[str, Any]:
    if file.left_out:
        print(f"accelnb: not taken over: {', '.join(file.left_out)}", file=sys.stderr)
    return {name: value for name, value in file.values.items() if name in _OF_SCRIPTS}


def _beside(target: Target, ignore_file: bool) -> dict[str, Any]:
    """Return the options that a notebook or the accelnb.yaml beside a script gives."""
    path = target.folder / FILE
    values: dict[str, Any] = {}
    if target.exported:
        values = {option.name: value for option, value in config.changed(target.exported.config)}
    elif path.exists() and not ignore_file:
        values = read_file(path)
    return {name: value for name, value in values.items() if name in _OF_SCRIPTS}


def _resolved(settings: dict[str, Any], is_number_given: bool) -> LaunchConfig:
    from accelnb.devices.hardware import probe

    wanted = {k: v for k, v in settings.items() if k != "procs" or not is_number_given}
    return config.resolve(config.from_mapping(LaunchConfig, wanted), probe())
