"""`accelnb export`: a notebook as a script, with what launches it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("-o", "--output", default="train.py", type=click.Path(path_type=Path),
              help="the script's file (default: train.py)")  # fmt: skip
@click.option("--slurm", is_flag=True, help="also write OUTPUT.sbatch, for sbatch")
@click.option("--ray", is_flag=True, help="also write OUTPUT.ray.sh, which submits a Ray job")
@click.option("--config", is_flag=True, help="also write accelnb.yaml, for accelnb launch")
@click.option("--accelerate", is_flag=True,
              help="also write accelerate.yaml, for accelerate launch --config_file")  # fmt: skip
@click.option("--force", is_flag=True, help="replace files that are there")
def command(
    notebook: Path,
    output: Path,
    slurm: bool,
    ray: bool,
    config: bool,
    accelerate: bool,
    force: bool,
) -> None:
    """Write a notebook's distributed cells, and what they need, as a script.

    The script has a main() and runs with python, torchrun and accelnb launch alike. Cells that
    only look at things are left out. A cell tagged `parameters` becomes command-line options.

    \b
    Examples:
      accelnb export notebook.ipynb -o train.py
      accelnb export notebook.ipynb --slurm && sbatch train.sbatch
    """
    from accelnb.export import export_notebook

    wanted = {"slurm": slurm, "ray": ray, "config": config, "accelerate": accelerate}
    launchers = [name for name, is_wanted in wanted.items() if is_wanted]
    exported = export_notebook(notebook, output, launchers=launchers, force=force)
    for line in exported.said():
        print(line)
