"""``accelnb``: sub-commands, each in a module that is imported when it is asked for."""

from __future__ import annotations

import importlib
import keyword
import signal
import sys

import rich_click as click

from accelnb import __version__
from accelnb.errors import AccelnbError
from accelnb.options.environment import working_folder

# Name to what `accelnb --help` says of it; accelnb.cli.<name> has the command, as `command`.
COMMANDS = {
    "config": "Choose the options of a folder's notebooks; the panel, in a terminal.",
    "env": "Show versions, hardware and settings, also for a bug report.",
    "estimate-memory": "How much memory a model needs to train, for each rank.",
    "export": "Write a notebook as a script that torchrun or a cluster launches.",
    "import": "Make a notebook of a training script.",
    "kernel": "Install a Jupyter kernel whose ranks are ready; list or remove them.",
    "launch": "Start a script, module or notebook on several processes or machines.",
    "merge-weights": "Make one safetensors file of a sharded checkpoint.",
    "run": "Execute a notebook without a browser, with progress and parameters.",
    "test": "Try a configuration out: start, collectives, some training steps.",
    "tpu-config": "What to do on a TPU host.",
}


class _Commands(click.RichGroup):
    """A group that knows its sub-commands by name, so that help comes at once."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            module = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
            command = importlib.import_module(f"accelnb.cli.{module}").command
        return name, command, rest


@click.group(
    "accelnb",
    cls=_Commands,
    commands=[click.RichCommand(name=name, help=text) for name, text in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.rich_config(help_config={"text_paragraph_linebreaks": "\n\n"})
@click.version_option(__version__, message="%(prog)s %(version)s")
def accelnb() -> None:
    """Distributed PyTorch in a Jupyter notebook.

    In a notebook, load it with %load_ext accelnb and put %%distributed on a cell. Here are the
    tools around that. For completion in bash (zsh and fish alike), run
    eval "$(_ACCELNB_COMPLETE=bash_source accelnb)".

    \b
    Examples:
      accelnb env                         what this machine has and can do
      accelnb test --procs 4              do four ranks work here, and how fast?
      accelnb kernel install --procs 4    a kernel in Jupyter's launcher
    """


def main() -> None:
    """Run the command of this process's arguments; end the process with its exit code."""
    if working_folder() is None:
        sys.exit(_say("the folder that this was started in was removed: cd to another", 1))
    try:
        sys.exit(accelnb.main(prog_name="accelnb", standalone_mode=False))
    except click.UsageError as error:
        sys.exit(_say(_in_one_line(error), error.exit_code))
    except click.ClickException as error:
        sys.exit(_say(error.format_message(), error.exit_code))
    except click.Abort:
        sys.exit(_say("stopped", 128 + signal.SIGINT))
    except AccelnbError as error:
        from accelnb.options.config import ConfigError

        sys.exit(_say(str(error), 2 if isinstance(error, ConfigError) else 1))


def _say(text: str, code: int) -> int:
    print(f"accelnb: {text}", file=sys.stderr)
    return code


def _in_one_line(error: click.UsageError) -> str:
    """Return what is wrong with the arguments, and where it says how they are."""
    said = error.format_message().rstrip(".")
    asked = error.ctx.command_path if error.ctx else "accelnb"
    see = " See" if said.endswith(("?", "?)")) else "; see"
    return f"{said[:1].lower()}{said[1:]}{see} {asked} --help"
