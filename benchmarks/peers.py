"""The contenders of ``launch.py``: for each one, the cells that a user of it would write.

``<N>`` in a cell stands for the number of ranks, ``<DEVICE>`` for where they compute and
``<BACKEND>`` for how their process group talks. The ranks of every contender do the same work:
`ALL_REDUCE` in a warm cell, followed by `STAMP` in the first one; `MEMORY` in a cell of its own.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from textwrap import indent

IMPORTS = """\
import os, time
from pathlib import Path
import torch, torch.distributed as dist
if "<DEVICE>" == "cuda":
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
"""

# With a value of it, for on a GPU the collective itself returns at once.
ALL_REDUCE = """\
t = torch.ones((), device="<DEVICE>")
dist.all_reduce(t)
reduced = t.item()
"""

# When the first all_reduce was done on this rank, and that it reached all the others.
STAMP = """\
now = time.time()
assert reduced == <N>
folder = Path(os.environ["LAUNCH_BENCHMARK_DIR"])
done = (folder / f"first-{dist.get_rank()}").write_text(str(now))
"""

# The rank's share of memory, read while all ranks are alive.
MEMORY = """\
dist.barrier()
rollup = Path("/proc/self/smaps_rollup").read_text()
pss = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
folder = Path(os.environ["LAUNCH_BENCHMARK_DIR"])
done = (folder / f"memory-{dist.get_rank()}").write_text(f"{os.getpid()} {pss}")
dist.barrier()
"""


@dataclass(frozen=True)
class Contender:
    """One way to run code on several ranks from a notebook, as cells.

    Attributes
    ----------
    name
        How the table and ``--only`` call it.
    module
        What must be importable.
    load
        The cell that makes it available; timed.
    first
        The first cell that runs on the ranks, with one all_reduce; timed.
    warm
        The cell that is repeated; timed.
    memory
        Runs `MEMORY` on the ranks.
    ready
        Waits for what ``load`` started in the background; not timed. A contender that has this is
        run once more without it, for the cold start.
    start
        Cells that ask for the ranks, where the first cell does not do it by itself; timed.
    stop
        Ends the ranks as its documentation says. Without it the kernel's end must do.
    devices
        Where its ranks can compute.
    """

    name: str
    module: str
    load: str
    first: str
    warm: str
    memory: str
    ready: str = ""
    start: tuple[str, ...] = ()
    stop: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")

    def why_not(self, device: str) -> str | None:
        """Why it cannot be measured here, None if it can."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed"
        return None if device in self.devices else f"its ranks do not compute on {device}"


# ------------------------------------------------------------------------------------- accelnb
# The one line that depends on accelnb's inside: wait until the fork server has imported torch.
ACCELNB_WAIT = "from accelnb.engine.launchers.local import fork_server; fork_server().wait_ready()"

accelnb = Contender(
    name="accelnb",
    module="accelnb",
    load="%load_ext accelnb",
    ready=ACCELNB_WAIT,
    first="%%distributed --procs <N> --device <DEVICE>\n" + IMPORTS + ALL_REDUCE + STAMP,
    warm="%%distributed --procs <N> --device <DEVICE>\n" + ALL_REDUCE,
    memory="%%distributed --procs <N> --device <DEVICE>\n" + MEMORY,
)

# ---------------------------------------------------------------------------------- Accelerate
# No ranks stay, so that a warm cell is another call. On a machine without GPUs the processes of
# notebook_launcher form no group by themselves: the function makes it, from the environment that
# the launcher has set. debug_launcher makes a gloo group before it calls the function.
JOIN = 'dist.init_process_group("<BACKEND>")\n'
LEAVE = "dist.destroy_process_group()\n"


def of_accelerate(
    name: str, devices: tuple[str, ...], join: str = "", leave: str = ""
) -> Contender:
    def called(function: str, work: str) -> str:
        body = indent(join + work + leave, "    ")
        return f"def {function}():\n{body}{name}({function}, num_processes=<N>)"

    return Contender(
        name=name,
        devices=devices,
        module="accelerate",
        load=f"from accelerate import {name}",
        first=IMPORTS + called("train", ALL_REDUCE + STAMP),
        warm=f"{name}(train, num_processes=<N>)",
        memory=called("measure", MEMORY),
    )


notebook_launcher = of_accelerate("notebook_launcher", ("cpu", "cuda"), JOIN, LEAVE)
debug_launcher = of_accelerate("debug_launcher", ("cpu",))

# --------------------------------------------------------------------------------- ipyparallel
# activate=True gives the %%px that waits for its cell. Ranks and process group are the user's.
ipyparallel = Contender(
    name="ipyparallel",
    module="ipyparallel",
    load="import ipyparallel as ipp",
    start=(
        "cluster = ipp.Cluster(n=<N>)\nclient = cluster.start_and_connect_sync(activate=True)",
        "import tempfile\n"
        'client[:].scatter("rank", range(<N>), flatten=True, block=True)\n'
        'client[:].push({"store": tempfile.mktemp(), "world_size": <N>}, block=True)',
        "%%px\nimport os\nos.environ['LOCAL_RANK'] = str(rank)\n"
        + IMPORTS
        + 'dist.init_process_group("<BACKEND>", rank=rank, world_size=world_size,\n'
        + "                        store=dist.FileStore(store, world_size))",
    ),
    first="%%px\n" + ALL_REDUCE + STAMP,
    warm="%%px\n" + ALL_REDUCE,
    memory="%%px\n" + MEMORY,
    stop="cluster.stop_cluster_sync()",
)

# -------------------------------------------------------------------------------- nbdistributed
# %dist_init waits a fixed 2 s. A cell that is sent before the workers have connected is lost and
# ends in a timeout after 30 s. The second cell waits until they have, to nbdistributed's favour.
NBDISTRIBUTED_WAIT = """\
for attempt in range(300):
    try:
        magics = get_ipython().magics_manager.registry["DistributedMagic"]
        magics._comm_manager.send_to_all("get_status", {}, timeout=0.1)
        break
    except TimeoutError:
        pass
"""

nbdistributed = Contender(
    name="nbdistributed",
    module="nbdistributed",
    load="%load_ext nbdistributed",
    start=("%dist_init -n <N>\n%dist_mode --disable", NBDISTRIBUTED_WAIT),
    first="%%distributed\n" + IMPORTS + ALL_REDUCE + STAMP,
    warm="%%distributed\n" + ALL_REDUCE,
    memory="%%distributed\n" + MEMORY,
    stop="%dist_shutdown",
)

CONTENDERS = (accelnb, notebook_launcher, debug_launcher, ipyparallel, nbdistributed)
