"""What libraries take from accelerate is found where accelnb stands in its place."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import accelnb
import accelnb.utils
from accelnb import AccelnbError

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "tests" / "ecosystem_names.txt").read_text().splitlines()
MODULES = ("accelerator", "big_modeling", "data_loader", "fsdp_utils", "hooks", "utils")
NAMES = [line.split()[0] for line in LINES if not line.startswith("#")]

_LOOK_UP = """
import sys
import accelnb.compat.accelerate

def found(name):
    module, rest = name.split("."), []
    while ".".join(module) not in accelnb.compat.accelerate._HOMES:
        rest.insert(0, module.pop())
    scope = {}
    exec(f"from {'.'.join(module)} import {rest[0]} as value" if rest else f"import {name}", scope)
    for part in rest[1:]:
        scope["value"] = getattr(scope["value"], part)

for name in sys.stdin.read().split():
    try:
        found(name)
    except (ImportError, AttributeError) as error:
        print(name, error)
print("looked up")
"""


def _missing(names: list[str]) -> list[str]:
    """Return what is said of names that a new process does not find under the stand-in."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK_UP],
        input="\n".join(names),
        capture_output=True,
        text=True,
        timeout=120,
    )
    *said, last = done.stdout.splitlines() or [done.stderr]
    assert last == "looked up", done.stderr
    return said


def _public_names_of_accelerate() -> dict[str, set[str]]:
    """Return what accelerate and accelerate.utils import to give on, read in their text."""
    spec = importlib.util.find_spec("accelerate")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("accelerate is not installed")
    folder = Path(spec.submodule_search_locations[0])
    found = {}
    for module, path in (("accelerate", "__init__.py"), ("accelerate.utils", "utils/__init__.py")):
        imports = [
            alias.asname or alias.name
            for node in ast.walk(ast.parse((folder / path).read_text()))
            if isinstance(node, ast.ImportFrom) and node.level
            for alias in node.names
        ]
        found[module] = {name for name in imports if not name.startswith("_")}
    return found


def test_every_name_that_libraries_take_is_found():
    assert len(NAMES) > 140
    assert _missing(NAMES) == []


def test_names_of_the_package_are_accelnbs_own_and_those_of_utils_of_its_utils():
    of = {"accelerate": accelnb, "accelerate.utils": accelnb.utils}
    for name in NAMES:
        module, _, last = name.rpartition(".")
        if module in of and last not in MODULES:
            assert hasattr(of[module], last), name


def test_every_public_name_of_accelerate_is_found_or_said_to_be_absent():
    page = (ROOT / "docs" / "parity.md").read_text()
    absent = set(re.findall(r"`(\w+)`", page[page.index("## Names that are not there") :]))
    public = _public_names_of_accelerate()
    asked = [f"{module}.{name}" for module, names in public.items() for name in names]
    assert len(asked) > 290
    assert {line.split()[0].rpartition(".")[2] for line in _missing(asked)} <= absent


@pytest.mark.parametrize(
    ("name", "says"),
    {
        "DeepSpeedPlugin": "FullyShardedDataParallelPlugin()",
        "MegatronLMPlugin": "ParallelismConfig(tp_size=..., dp_shard_size=...)",
        "TERecipeKwargs": "AORecipeKwargs",
        "get_active_deepspeed_plugin": "DeepSpeed is not in this version",
        "prepare_multi_gpu_env": "accelnb launch",
    }.items(),
)
def test_what_is_not_here_says_so_in_one_line_when_it_is_called(name, says):
    with pytest.raises(AccelnbError) as caught:
        getattr(accelnb.utils, name)("an argument", zero_stage=3)
    said = str(caught.value)
    assert said.startswith(f"{name}: ")
    assert says in said
    assert "\n" not in said


def test_nothing_is_an_instance_of_what_is_not_here_and_subclasses_refuse_too():
    from accelnb.utils import DeepSpeedSchedulerWrapper, HfDeepSpeedConfig

    class OfALibrary(HfDeepSpeedConfig):
        def __init__(self, path: str) -> None:
            super().__init__(path)

    assert not isinstance(object(), DeepSpeedSchedulerWrapper)
    with pytest.raises(AccelnbError, match="HfDeepSpeedConfig: DeepSpeed is not in this version"):
        OfALibrary("zero3.json")


def test_plugins_that_are_not_here_are_none_or_refused():
    accelerator = accelnb.Accelerator(deepspeed_plugin=None, megatron_lm_plugin=None)
    assert accelerator.state.deepspeed_plugin is None
    with pytest.raises(AccelnbError, match=r"^deepspeed_plugin: DeepSpeed is not in this version"):
        accelnb.Accelerator(deepspeed_plugin=object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="unexpected keyword argument 'typo'"):
        accelnb.Accelerator(typo=None)
