"""A flat YAML file, field by field, each with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from accelnb.options.config import ConfigError

if TYPE_CHECKING:
    import yaml


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
