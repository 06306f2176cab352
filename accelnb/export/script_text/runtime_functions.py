"""The parts of a script that do what accelnb did around the notebook's code."""

from __future__ import annotations

import textwrap

from accelnb.devices import DEVICES
from accelnb.export.cells.notebook_file import ExportError
from accelnb.export.script_text.source_text import call_of
from accelnb.options.config import LaunchConfig, changed
from accelnb.options.environment import BY_OPTION, MESH

# What a script says of each option that an Accelerator takes from the environment.
_SAID = {
    "precision": "mixed precision of Accelerator()",
    "outputs": "whether Accelerator() converts what models return to fp32",
    "accumulation": "batches for an optimizer step of Accelerator()",
    "strategy": "how Accelerator() trains one model on all processes",
    "mesh": "how Accelerator() arranges the processes",
}

GATHER = '''
def from_all_ranks(value: Any) -> list[Any]:
    """Return what every process has, in the order of ranks, as `--out` did in the notebook."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
'''

_CORES = """\
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":  # which torchrun sets unless you do
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
"""

_ALONE = """\
    alone = not {"RANK", "MASTER_ADDR"} <= os.environ.keys()  # no launcher started it
    if alone:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
"""

_SEVERAL_STORES = """\
    store = dist.HashStore()
    if not alone:
        # A new group must not find what the one before it left in the store.
        store, _, _ = next(rendezvous("env://"))
        store = dist.PrefixStore(f"group-{next(_group_numbers)}", store)
"""

_MAKE_GROUP = """\
    dist.init_process_group(
        backend,
        store={store},
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
"""

_DEVICE = """\
    if torch.accelerator.is_available():
        accelerator_type = torch.accelerator.current_accelerator()
        devices = torch.accelerator.device_count()
        index = int(os.environ["LOCAL_RANK"]) % devices
        device = torch.device(accelerator_type.type, index)
        torch.accelerator.set_device_index(device.index)
{backend}    else:
"""

_BACKEND = """\
        # nccl for tensors on GPUs, unless processes share one, which it refuses; else gloo.
        backend = "gloo" if int(os.environ["LOCAL_WORLD_SIZE"]) > devices else None
"""

WORK_AS = (
    '''
def work_as(side: str) -> None:
    """Go on with the cores that the notebook itself had ("notebook"), or each rank ("ranks")."""
    processes = 1 if side == "notebook" else int(os.environ["LOCAL_WORLD_SIZE"])
'''
    + _CORES
)

WORK_AS_WITH_RANDOM_NUMBERS = (
    '''
_random_states = {"notebook": torch.get_rng_state(), "ranks": torch.get_rng_state()}
_side = "notebook"


def work_as(side: str) -> None:
    """Go on as the notebook itself ("notebook") or as one of its ranks ("ranks").

    They had different numbers of cores, and neither drew the random numbers of the other.
    """
    global _side
    _random_states[_side], _side = torch.get_rng_state(), side
    torch.set_rng_state(_random_states[side])
    processes = 1 if side == "notebook" else int(os.environ["LOCAL_WORLD_SIZE"])
'''
    + _CORES
)


def settings(config: LaunchConfig) -> list[tuple[str, str, str, str]]:
    """Return the constants of a script that differ from what is usual.

    Each is (constant, value, what it is, the environment variable that it sets).
    """
    found = []
    for option, value in changed(config):
        if option.name in BY_OPTION:
            text = option.write(value)
            constant = text if isinstance(value, int) else f'"{text}"'
            found.append(
                (option.name.upper(), constant, _SAID[option.name], BY_OPTION[option.name])
            )
    return found


def join_text(config: LaunchConfig, *, makes_group: bool, shares_cores: bool, several: bool) -> str:
    """Return the function that joins the process group and chooses the device.

    Parameters
    ----------
    makes_group
        Whether it makes the group; else the notebook's own code does.
    shares_cores
        Whether it sets the number of threads, which nothing else in the script does.
    several
        Whether it is called again when the notebook's code has ended the group.

    Raises
    ------
    ExportError
        The device cannot be had by a script that torchrun starts.
    """
    if config.device != "auto" and DEVICES[config.device].kind == "XLA":
        raise ExportError(
            f"device={config.device}: an exported script has no form for TPUs; "
            "export from a notebook with --device cuda or cpu"
        )
    what = "Join the processes that were started, or be the only one; return this one's device."
    text = "_group_numbers = itertools.count()\n\n" if several else ""
    text += f'\ndef join_process_group() -> torch.device:\n    """{what}"""\n'
    constants = {variable: constant for constant, _, _, variable in settings(config)}
    has_mesh = constants.pop(MESH, None)
    for variable, constant in constants.items():
        value = constant if constant != "ACCUMULATION" else f"str({constant})"
        text += f'    os.environ.setdefault("{variable}", {value})\n'
    if config.device == "cpu":
        text += '    os.environ.setdefault("ACCELERATE_USE_CPU", "true")\n'
    text += _ALONE
    if not makes_group:
        text += '        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")\n'
    if has_mesh:  # one process has no place for it
        text += f'    if not alone:\n        os.environ.setdefault("{MESH}", MESH)\n'
    if shares_cores:
        text += '    processes = int(os.environ["LOCAL_WORLD_SIZE"])\n' + _CORES
    on_cpu = '    device = torch.device("cpu")\n'
    if makes_group:
        on_cpu += '    backend = "gloo"\n'
    if config.device != "cpu":
        text += _DEVICE.format(backend=_BACKEND if makes_group else "")
        on_cpu = textwrap.indent(on_cpu, "    ")
    text += on_cpu
    if makes_group:
        text += _SEVERAL_STORES if several else ""
        store = "store" if several else "dist.HashStore() if alone else None"
        text += _MAKE_GROUP.format(store=store)
    return text + "    return device\n"


def mesh_text(mesh: tuple[tuple[str, int], ...]) -> str:
    """Return the line that makes the cell's DeviceMesh."""
    sizes = ", ".join(str(size) for _, size in mesh)
    names = ", ".join(f'"{name}"' for name, _ in mesh)
    comma = "," if len(mesh) == 1 else ""
    arguments = f"device.type, ({sizes}{comma}), mesh_dim_names=({names}{comma})"
    return call_of("init_device_mesh", arguments, "mesh = ")
