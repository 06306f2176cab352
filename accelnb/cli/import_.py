"""`accelnb import`: a notebook of a script."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("notebook", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="replace the notebook if it is there")
def command(script: Path, notebook: Path | None, force: bool) -> None:
    """Make a notebook of a training script.

    Imports, functions and classes become ordinary cells, the options of argparse a cell of
    parameters, and what main() does a distributed cell. `# %%` marks of cells are kept.

    \b
    Examples:
      accelnb import train.py notebook.ipynb
      accelnb import train.py                  writes train.ipynb
    """
    from accelnb.export import import_script

    target = notebook or script.with_suffix(".ipynb")
    import_script(script, target, force=force)
    print(f"written: {target}")
