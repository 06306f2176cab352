"""The file of ``accelnb launch --config-file``: an accelnb.yaml, or what Accelerate writes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelnb.options import accelerate_sharding as sharding
from accelnb.options.accelerate_file import read_accelerate
from accelnb.options.config_file import fields, read_file


@dataclass(frozen=True)
class GivenFile:
    """What such a file says.

    Attributes
    ----------
    values : dict
        Options.
    variables : dict
        What no option says, as the environment variables that ``accelerate launch`` sets.
    left_out : list of str
        What is not taken over.
    """

    values: dict[str, Any]
    variables: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def variables_beside(self, asked: Collection[str]) -> dict[str, str]:
        """Return the variables, without those of options that the command line gives itself."""
        return {
            name: text
            for name, text in self.variables.items()
            if not ("mesh" in asked and _is_of_mesh(name))
            and not ("strategy" in asked and name == sharding.USE_FSDP)
        }


def read_config_file(path: Path) -> GivenFile:
    """Read a configuration for a launch.

    Raises
    ------
    ConfigError
        It cannot be read, or a field of it is wrong; names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.cli.launching.config_file import read_config_file
    >>> path = Path(tempfile.mkdtemp(), "theirs.yaml")
    >>> _ = path.write_text("distributed_type: FSDP\\nnum_processes: 2\\n")
    >>> read_config_file(path).values
    {'procs': 2, 'strategy': 'fsdp'}
    """
    if any(name == "version" for name, _ in fields(path)):
        return GivenFile(dict(read_file(path)))
    found = read_accelerate(path)
    return GivenFile(dict(found), found.variables, found.left_out)


def _is_of_mesh(variable: str) -> bool:
    is_size = variable.startswith("PARALLELISM_CONFIG_") and variable.endswith("_SIZE")
    return is_size or variable == sharding.USE_PARALLELISM
