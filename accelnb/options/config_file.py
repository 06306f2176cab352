"""accelnb.yaml: the options of a folder's notebooks, read and written.

The file is a flat mapping of option names to values, with the version of its form.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.errors import AccelnbError
from accelnb.options.config import ConfigError, LaunchConfig, Option, changed, options

if TYPE_CHECKING:
    import yaml

FILE = "accelnb.yaml"
VERSION = 1

_HEADER = "# Options of %%distributed for the notebooks of this folder; those of a cell win."


class FileValues(dict[str, Any]):
    """Values of options as a file gives them.

    Attributes
    ----------
    path : Path
        The file.
    lines : dict
        In which line each option is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.lines: dict[str, int] = {}

    def where(self, option: str) -> str:
        """Return e.g. ``accelnb.yaml, line 3`` for a message."""
        return f"{self.path.name}, line {self.lines[option]}"


def read_file(path: str | os.PathLike[str]) -> FileValues:
    """Return the checked values of the options that a file gives.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or a field of it is wrong; names the line and the
        field.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.options.config_file import FILE, read_file
    >>> path = Path(tempfile.mkdtemp(), FILE)
    >>> _ = path.write_text("version: 1\\nprocs: 4\\nprecision: bf16\\n")
    >>> read_file(path)
    {'procs': 4, 'precision': 'bf16'}
    """
    values = FileValues(Path(path))
    known = {option.name: option for option in options(LaunchConfig)}
    seen: dict[str, int] = {}
    for name, node in fields(values.path):
        line = line_of(node)
        with in_line(values.path, line):
            if name in seen:
                raise ConfigError(f"{name}: is given twice, first in line {seen[name]}")
            seen[name] = line
            if name == "version":
                _check_version(text_of(name, node))
                continue
            values[name] = _value(_known_option(name, known), text_of(name, node))
        values.lines[name] = line
    return values


def to_yaml(config: LaunchConfig) -> str:
    """Return `config` as the text of an accelnb.yaml: what differs from the defaults.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.options.config_file import to_yaml
    >>> print(to_yaml(LaunchConfig(accumulation=4)))
    # Options of %%distributed for the notebooks of this folder; those of a cell win.
    version: 1
    <BLANKLINE>
    # batches of each rank for one optimizer step, unless the cell's Accelerator says
    accumulation: 4
    <BLANKLINE>
    """
    lines = [_HEADER, f"version: {VERSION}"]
    for option, value in changed(config):
        lines += ["", f"# {option.help}", f"{option.name}: {option.write(value)}"]
    return "\n".join(lines) + "\n"


def write_file(path: str | os.PathLike[str], config: LaunchConfig) -> None:
    """Write `config` to `path`, whole or not at all.

    Raises
    ------
    AccelnbError
        The file cannot be written; what was there is there still.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()  # the file itself is replaced
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(to_yaml(config), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise AccelnbError(
            f"{path} cannot be written: {error.strerror}; make the folder writable, or put the "
            "options on the %%distributed line"
        ) from None


@contextlib.contextmanager
def in_line(path: Path, line: int) -> Iterator[None]:
    """Say of a `ConfigError` within in which line of the file it is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path.name}, line {line}: {error}", error.option) from None


def fields(path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """Read the keys of a YAML file, each with the node of its value.

    Raises
    ------
    ConfigError
        The file cannot be read or is not YAML of that kind; names the line.
    """
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name}: is not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path.name}{line}: is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: is not YAML: {error}".splitlines()[0]) from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path.name}, line 1: must be lines such as procs: 4")
    for key, node in root.value:
        yield str(key.value), node


def line_of(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def text_of(name: str, node: yaml.Node) -> str | None:
    """Return a value's text, None for an empty one. YAML itself would read `no` as false.

    Raises
    ------
    ConfigError
        The value is a list or a mapping.
    """
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise ConfigError(f"{name}: must be one value, not a {kind}")
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _known_option(name: str, known: Mapping[str, Option]) -> Option:
    if name in known:
        return known[name]
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    meant = f"perhaps {near[0]} is meant" if near else f"fields are {', '.join(known)}"
    raise ConfigError(f"{name}: no such field; {meant}")


def _value(option: Option, text: str | None) -> Any:
    if text is None and option.default is not None:
        raise ConfigError(f"{option.name}: has no value; give one or remove the line", option.name)
    return option.read(text)


def _check_version(text: str | None) -> None:
    if text == str(VERSION):
        return
    newer = text is not None and text.isdigit() and int(text) > VERSION
    do = "upgrade accelnb" if newer else "save it anew from the panel (%accelnb)"
    raise ConfigError(f"version={text}: this accelnb reads version {VERSION}; {do}")
