"""accelnb.yaml and Accelerate's file: what is written is read, what is wrong is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from accelnb.cli.launching.config_file import read_config_file
from accelnb.errors import AccelnbError
from accelnb.export.launcher_files import accelerate_text
from accelnb.options.accelerate_file import default_path, read_accelerate
from accelnb.options.config import ConfigError, LaunchConfig, from_mapping, options
from accelnb.options.config_file import FILE, read_file, to_yaml, write_file

OTHER = LaunchConfig(
    procs=4,
    device="cpu",
    precision="bf16",
    outputs="compute",
    strategy="none",
    mesh=(("dp_replicate", 2), ("tp", 2)),
    accumulation=8,
    cluster="ray://head:10001",
    nodes=2,
    start="spawn",
    timeout=90.5,
    stall=10.0,
    logs="all",
)


def _file(folder: Path, text: str) -> Path:
    path = folder / FILE
    path.write_text(text)
    return path


@pytest.mark.parametrize("config", [LaunchConfig(), OTHER], ids=["defaults", "all changed"])
def test_what_is_written_is_read_back(tmp_path, config):
    write_file(tmp_path / FILE, config)
    assert from_mapping(LaunchConfig, read_file(tmp_path / FILE)) == config
    assert os.listdir(tmp_path) == [FILE]


def test_the_file_is_short_commented_yaml_that_other_tools_read():
    text = to_yaml(OTHER)
    assert yaml.safe_load(text)["version"] == 1
    assert yaml.safe_load(text)["procs"] == 4
    assert yaml.safe_load(to_yaml(LaunchConfig())) == {"version": 1}
    for option in options(LaunchConfig):
        assert f"# {option.help}\n{option.name}: " in text


def test_a_word_that_yaml_takes_for_false_is_a_precision(tmp_path):
    assert read_file(_file(tmp_path, "precision: no\nprocs: null\n")) == {
        "precision": "no",
        "procs": None,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nprocs: 2\nprecision: fp12\n", "line 3: precision=fp12: choose one of no,"),
        ("procs: many", "line 1: procs=many: must be a whole number of at least 1"),
        ("procs: [2]", "line 1: procs: must be one value, not a list"),
        ("mesh: {tp: 2}", "line 1: mesh: must be one value, not a mapping"),
        ("stall:", "line 1: stall: has no value"),
        ("# mine\nprecison: bf16", "line 2: precison: no such field; perhaps precision is meant"),
        ("gpus: 2", "line 1: gpus: no such field; fields are procs, device"),
        ("procs: 2\nlogs: all\nprocs: 3", "line 3: procs: is given twice, first in line 1"),
        (
            "strategy: deepspeed",
            "line 1: strategy=deepspeed: not in this version: choose fsdp",
        ),
        ("version: 2\nnew: 1", "line 1: version=2: this accelnb reads version 1; upgrade accelnb"),
        ("version: 0", "line 1: version=0: this accelnb reads version 1; save it anew"),
        ("procs: 2\n  device: cpu", "line 2: is not YAML: mapping values are not allowed here"),
        ("procs: 'two", "line 1: is not YAML: "),
        ("- procs", "line 1: must be lines such as procs: 4"),
        ("procs: 2\n---\nprocs: 3", "line 2: is not YAML: "),
        ("procs: 2\x07", ": is not YAML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        read_file(_file(tmp_path, text))
    assert FILE in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_or_cannot_be_opened_is_said_in_one_line(tmp_path):
    (tmp_path / FILE).write_bytes(b"procs: \xff")
    with pytest.raises(ConfigError, match="is not a text file in UTF-8"):
        read_file(tmp_path / FILE)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


def test_a_folder_that_is_not_there_or_not_writable_is_said_in_one_line(tmp_path):
    with pytest.raises(AccelnbError, match=r"cannot be written: .*; make the folder writable"):
        write_file(tmp_path / "gone" / FILE, OTHER)
    # A file system that refuses to write also when the user is root.
    with pytest.raises(AccelnbError, match=r"/proc/accelnb.yaml cannot be written: "):
        write_file(Path("/proc") / FILE, OTHER)


def test_a_link_to_the_file_stays_a_link(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / FILE).symlink_to(tmp_path / "shared" / FILE)
    write_file(tmp_path / FILE, OTHER)
    assert (tmp_path / FILE).is_symlink()
    assert read_file(tmp_path / "shared" / FILE)["procs"] == 4


# As `accelerate config` wrote it, with FSDP chosen.
FSDP = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
enable_cpu_affinity: false
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: true
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 4
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
use_cpu: false
"""
DEEPSPEED = """\
distributed_type: DEEPSPEED
deepspeed_config:
  gradient_accumulation_steps: 4
  zero_stage: 2
mixed_precision: 'no'
num_machines: 2
num_processes: 16
"""


@pytest.mark.parametrize(
    ("text", "values", "left_out"),
    [
        (FSDP, {"precision": "bf16", "procs": 4, "strategy": "fsdp"}, []),
        (
            DEEPSPEED,
            {"accumulation": 4, "precision": "no"},
            ["distributed_type: DEEPSPEED", "deepspeed_config", "num_machines: 2"],
        ),
        (
            "distributed_type: MULTI_GPU\ngpu_ids: 0,1\nnum_processes: 2\nmixed_precision: no\n",
            {"device": "cuda", "procs": 2, "precision": "no"},
            ["gpu_ids: 0,1"],
        ),
        (
            json.dumps({"distributed_type": "MULTI_GPU", "use_cpu": True, "num_processes": 3}),
            {"device": "cpu", "procs": 3},
            [],
        ),
        ("distributed_type: 'NO'\ngradient_accumulation_steps: 2\n", {"accumulation": 2}, []),
    ],
    ids=["fsdp", "deepspeed", "gpus", "json", "one process"],
)
def test_a_file_of_accelerate_gives_its_options_and_says_what_is_left_out(
    tmp_path, text, values, left_out
):
    found = read_accelerate(_file(tmp_path, text))
    assert found == values
    assert found.left_out == left_out


SHARDED = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: false
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: Block,Head
  fsdp_offload_params: false
  fsdp_cpu_ram_efficient_loading: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
num_processes: 8
parallelism_config:
  parallelism_config_dp_replicate_size: 1
  parallelism_config_dp_shard_size: 2
  parallelism_config_tp_size: 2
  parallelism_config_cp_size: 2
  parallelism_config_cp_comm_strategy: alltoall
"""


def test_a_file_that_shards_gives_a_mesh_and_the_variables_of_accelerate_launch(tmp_path):
    found = read_accelerate(_file(tmp_path, SHARDED))
    mesh = (("dp_shard", 2), ("cp", 2), ("tp", 2))
    assert found == {"procs": 8, "strategy": "fsdp", "mesh": mesh}
    assert found.left_out == []
    assert found.variables == {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block,Head",
        "FSDP_OFFLOAD_PARAMS": "false",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
        "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "1",
        "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
        "PARALLELISM_CONFIG_TP_SIZE": "2",
        "PARALLELISM_CONFIG_CP_SIZE": "2",
        "PARALLELISM_CONFIG_CP_COMM_STRATEGY": "alltoall",
    }
    assert found.beyond_options == [
        "parallelism_config_cp_comm_strategy: alltoall",
        "fsdp_reshard_after_forward: false",
        "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap: Block,Head",
        "fsdp_cpu_ram_efficient_loading: true",
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("fsdp_config:\n  fsdp_sharding_strategy: HYBRID_SHARD\n", {"strategy": "hsdp"}),
        ("fsdp_config:\n  fsdp_sharding_strategy: 1\n", {"strategy": "fsdp"}),
        (
            "parallelism_config:\n  parallelism_config_tp_size: 2\n",
            {"strategy": "ddp", "mesh": (("tp", 2),)},
        ),
        ("parallelism_config:\n  parallelism_config_tp_size: 1\n", {"strategy": "fsdp"}),
        (
            "use_parallelism_config: false\nparallelism_config:\n  parallelism_config_tp_size: 2\n",
            {"strategy": "fsdp"},
        ),
    ],
)
def test_what_a_file_says_of_groups_and_sizes_becomes_strategy_and_mesh(tmp_path, text, values):
    assert read_accelerate(_file(tmp_path, f"distributed_type: FSDP\n{text}")) == values


def test_fsdp_settings_of_a_file_that_does_not_ask_for_it_are_left_out(tmp_path):
    found = read_accelerate(_file(tmp_path, "fsdp_config:\n  fsdp_version: 2\n"))
    assert (found, found.left_out, found.variables) == ({}, ["fsdp_config"], {})


def test_a_wrong_file_of_accelerate_is_named_with_its_line(tmp_path):
    path = _file(tmp_path, "num_machines: 1\nnum_processes: zero\n")
    with pytest.raises(ConfigError, match="line 2: procs=zero: must be a whole number"):
        read_accelerate(path)
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        read_accelerate(tmp_path / "gone.yaml")
    sizes = "parallelism_config:\n  parallelism_config_tp_size: half\n"
    with pytest.raises(ConfigError, match="line 2: mesh=tp=half: must be dimensions such as"):
        read_accelerate(_file(tmp_path, sizes))
    with pytest.raises(ConfigError, match="line 3: fsdp_config: offload: its fields begin with"):
        read_accelerate(_file(tmp_path, "distributed_type: FSDP\nfsdp_config:\n  offload: true\n"))


def test_the_file_of_accelerate_is_looked_for_where_accelerate_writes_it(tmp_path):
    from accelerate.commands.config import config_args

    assert default_path().parent == Path(config_args.cache_dir)
    assert default_path({"HF_HOME": str(tmp_path)}).parent == tmp_path / "accelerate"


@pytest.mark.parametrize(
    "config",
    [
        LaunchConfig(device="cpu", strategy="fsdp", procs=4),
        LaunchConfig(device="cpu", strategy="fsdp", procs=8, mesh=(("dp_shard", 4), ("tp", 2))),
        LaunchConfig(
            device="cpu", strategy="hsdp", procs=4, mesh=(("dp_replicate", 2), ("dp_shard", 2))
        ),
        LaunchConfig(device="cpu", procs=4),
    ],
)
def test_a_file_that_is_written_for_accelerate_reads_as_what_was_written(tmp_path, config):
    found = read_accelerate(_file(tmp_path, accelerate_text(config)))
    assert from_mapping(LaunchConfig, found) == config
    assert found.beyond_options == found.left_out == []


def test_a_file_for_accelerate_has_the_processes_of_a_mesh_on_all_machines():
    mesh = (("dp_replicate", 2), ("dp_shard", 4))
    text = accelerate_text(LaunchConfig(device="cpu", nodes=2, strategy="hsdp", mesh=mesh))
    assert text.startswith("# Start on each machine with --machine_rank NUMBER")
    assert "num_machines: 2\nnum_processes: 8\n" in text


def test_options_of_the_command_line_win_over_variables_of_a_file(tmp_path):
    file = read_config_file(_file(tmp_path, SHARDED))
    assert "ACCELERATE_USE_FSDP" not in file.variables_beside({"strategy"})
    kept = file.variables_beside({"mesh"})
    assert [name for name in kept if name.startswith("PARALLELISM")] == [
        "PARALLELISM_CONFIG_CP_COMM_STRATEGY"
    ]
    own = read_config_file(_file(tmp_path, "version: 1\nstrategy: fsdp\nmesh: dp_shard=-1\n"))
    assert own.values == {"strategy": "fsdp", "mesh": (("dp_shard", -1),)}
