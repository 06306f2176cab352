"""What ``importlib.metadata`` says of accelerate where accelnb stands in its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path

# Some libraries take a package for accelerate only if its home page is that of its authors.
_TEXTS = {
    "METADATA": """\
Metadata-Version: 2.1
Name: accelerate
Version: {version}
Summary: accelnb, with the names of this version of accelerate
Home-page: https://github.com/huggingface/accelerate
""",
    "top_level.txt": "accelerate\n",
}


class StandIn(Distribution):
    """The package accelerate, in the version whose names accelnb has. It has no files."""

    def __init__(self, version: str) -> None:
        self._version = version

    def read_text(self, filename: str) -> str | None:
        text = _TEXTS.get(filename)
        return text and text.format(version=self._version)

    def locate_file(self, path: object) -> Path:
        return Path(__file__).parent / str(path)


def found(context: DistributionFinder.Context, version: str) -> Iterator[Distribution]:
    """Yield the stand-in, if it is what is looked for.

    Whoever names folders looks for what is installed there, as pip does, and is told of that.
    """
    wanted = context.name is None or re.sub(r"[-_.]+", "-", context.name).lower() == "accelerate"
    if wanted and context.path is sys.path:
        yield StandIn(version)
