"""Files that launch an exported script: sbatch, a Ray job, accelnb.yaml, Accelerate's config."""

from __future__ import annotations

import shlex
from pathlib import Path

from accelnb.devices import DEVICES
from accelnb.export.cells.notebook_file import ExportError
from accelnb.export.processes import processes_on_each_node
from accelnb.options.config import LaunchConfig
from accelnb.options.config_file import FILE, to_yaml
from accelnb.options.mesh import filled, usual_mesh

# The dimensions of a mesh that Accelerate has sizes for.
_SIZES = ("dp_replicate", "dp_shard", "tp", "cp", "sp")
# With MULTI_CPU `accelerate launch` starts one process, unless it is given a host file for mpirun.
_STARTED_AS = {"MULTI_CPU": "MULTI_GPU"}


def launcher_file(kind: str, script: Path, config: LaunchConfig) -> dict[Path, str]:
    """Return the file of that kind for a script, with its text.

    Raises
    ------
    ExportError
        There is no such kind.

    Examples
    --------
    >>> from pathlib import Path
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.export.launcher_files import launcher_file
    >>> list(launcher_file("slurm", Path("train.py"), LaunchConfig()))
    [PosixPath('train.sbatch')]
    """
    if kind == "slurm":
        return {script.with_suffix(".sbatch"): slurm_text(script, config)}
    if kind == "ray":
        return {script.with_suffix(".ray.sh"): ray_text(script, config)}
    if kind == "accelerate":
        return {script.with_name("accelerate.yaml"): accelerate_text(config)}
    if kind == "config":
        return {script.with_name(FILE): to_yaml(config)}
    raise ExportError(f"{kind}: choose one of slurm, ray, config, accelerate")


def slurm_text(script: Path, config: LaunchConfig) -> str:
    """Return an sbatch file that starts the script by torchrun, on one node or several.

    Parameters
    ----------
    script
        The script's file; the job starts it by its name, from the folder of submission.

    Examples
    --------
    >>> from pathlib import Path
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.export.launcher_files import slurm_text
    >>> print(slurm_text(Path("train.py"), LaunchConfig(procs=4)).splitlines()[1])
    #SBATCH --job-name=train
    """
    procs = processes_on_each_node(config)
    gpus = "" if config.device == "cpu" else f"#SBATCH --gpus-per-node={procs}\n"
    if config.device == "auto":
        gpus = f"# On a cluster with GPUs:\n##SBATCH --gpus-per-node={procs}\n"
    return f"""\
#!/bin/bash
#SBATCH --job-name={script.stem}
#SBATCH --nodes={config.nodes}                 # more nodes: sbatch --nodes 2 {script.stem}.sbatch
#SBATCH --ntasks-per-node=1       # torchrun starts the processes of a node
#SBATCH --cpus-per-task={procs}
#SBATCH --output={script.stem}-%j.log
{gpus}
set -euo pipefail

# Where the nodes meet: the first of them, at a port that follows from the job's number.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node="${{HEAD_NODE:-${{nodes%%$'\\n'*}}}}"
port=$((20000 + SLURM_JOB_ID % 20000))

# Each node tells the others the address of its own name. Where /etc/hosts makes that a loopback
# address, as on Debian, they would look for it at themselves, until a time-out.
if ((SLURM_JOB_NUM_NODES > 1)) &&
    [[ -z "${{GLOO_SOCKET_IFNAME:-}}" && "$head_node" != 127.* ]]; then
    srun bash -c 'case "$(getent hosts "$(hostname)")" in
        127.* | ::1*)
            echo "$(hostname): its name leads to a loopback address: correct /etc/hosts there," \
                "or name its network interface: GLOO_SOCKET_IFNAME=eth0 sbatch ..." >&2
            exit 1 ;;
    esac'
fi

export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"  # srun does not take it from sbatch
srun torchrun \\
    --nnodes "$SLURM_JOB_NUM_NODES" \\
    --nproc-per-node {procs} \\
    --rdzv-backend c10d \\
    --rdzv-endpoint "$head_node:$port" \\
    --rdzv-id "$SLURM_JOB_ID" \\
    {shlex.quote(script.name)} "$@"
"""


def ray_text(script: Path, config: LaunchConfig) -> str:
    """Return a shell script that submits the script as a Ray job.

    Examples
    --------
    >>> from pathlib import Path
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.export.launcher_files import ray_text
    >>> "ray job submit" in ray_text(Path("train.py"), LaunchConfig())
    True
    """
    procs = processes_on_each_node(config)
    resources = f"--entrypoint-num-cpus {procs}"
    if config.device not in ("cpu", "auto"):
        resources = f"--entrypoint-num-gpus {procs}"
    return f"""\
#!/bin/bash
# Submit {script.name} to the Ray cluster at RAY_ADDRESS, e.g. http://127.0.0.1:8265.
# Its {procs} processes run on one node of the cluster; for GPUs say --entrypoint-num-gpus.
set -euo pipefail
cd "$(dirname "$0")"

ray job submit \\
    --working-dir . \\
    {resources} \\
    -- torchrun --standalone --nproc-per-node {procs} {shlex.quote(script.name)} "$@"
"""


def accelerate_text(config: LaunchConfig) -> str:
    """Return a configuration for ``accelerate launch --config_file``.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.export.launcher_files import accelerate_text
    >>> print(accelerate_text(LaunchConfig(procs=2, device="cpu", precision="bf16")))
    compute_environment: LOCAL_MACHINE
    debug: false
    distributed_type: MULTI_GPU
    gpu_ids: all
    machine_rank: 0
    main_process_port: 0
    main_training_function: main
    mixed_precision: bf16
    num_machines: 1
    num_processes: 2
    rdzv_backend: static
    same_network: true
    use_cpu: true
    <BLANKLINE>
    """
    import yaml

    from accelnb.devices.hardware import probe

    ranks = processes_on_each_node(config) * config.nodes
    device = probe().best_device if config.device == "auto" else config.device
    kind = DEVICES[device].kind if ranks > 1 else "NO"
    fields = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": _STARTED_AS.get(kind, kind),
        "gpu_ids": "all",
        "machine_rank": 0,
        "main_process_port": 0,
        "main_training_function": "main",
        "mixed_precision": config.precision,
        "num_machines": config.nodes,
        "num_processes": ranks,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": device == "cpu",
        **_sharding_fields(config, ranks),
    }
    text = yaml.safe_dump(fields)
    # What accelerate takes on the command line alone.
    if config.accumulation > 1:
        text = f"# Start with --gradient_accumulation_steps {config.accumulation}\n{text}"
    if config.nodes > 1:
        where = "--machine_rank NUMBER --main_process_ip HOST --main_process_port PORT"
        text = f"# Start on each machine with {where}\n{text}"
    return text


def _sharding_fields(config: LaunchConfig, ranks: int) -> dict[str, object]:
    """Return how models are divided, in Accelerate's fields; empty if each process has its copy."""
    if config.strategy == "none" or ranks == 1:
        return {}
    mesh = dict(filled(config.mesh, ranks) or usual_mesh(config.strategy, ranks, config.nodes))
    if not any(size > 1 for name, size in mesh.items() if name != "dp_replicate"):
        return {}
    fields: dict[str, object] = {
        "distributed_type": "FSDP",
        "fsdp_config": {
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_version": 2,
        },
    }
    if config.mesh or config.strategy == "hsdp":
        sizes = {name: mesh.get(name, 1) for name in _SIZES}
        fields["parallelism_config"] = {f"parallelism_config_{n}_size": s for n, s in sizes.items()}
    return fields
