"""The trackers with their real packages, offline: what was logged is read back from their files.

Each runs on two ranks, of which one writes.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import importlib.util
import json
import os
import sqlite3
import struct
import zipfile
from typing import Any

import numpy
import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator


def _installed(package):
    found = importlib.util.find_spec(package)
    return pytest.mark.skipif(found is None, reason=f"{package} is not installed")


def _on_ranks(name, folder, options=None, env=None, more=None):
    # Their imports take seconds.
    on_ranks(_track, name, str(folder), options or {}, env or {}, more, timeout=110)


def _track(name, folder, options, env, more):
    """Log to the tracker on a rank as a training does, then what is its own."""
    os.chdir(folder)
    os.environ.update(env)
    accelerator = Accelerator(log_with=name, project_dir=folder)
    given: Any = options() if callable(options) else options
    accelerator.init_trackers("project", {"lr": 0.1}, {name: given})
    for step in (1, 2):
        accelerator.log({"loss": torch.tensor(0.5 / step)}, step=step)
    if more is not None:
        more(accelerator.get_tracker(name))
    accelerator.end_training()


def _more_tensorboard(tracker):
    tracker.log({"note": "text", "curves": {"a": 1.0}, "left": [1]}, step=3)
    tracker.log_images({"picture": numpy.zeros((1, 4, 4, 3), "uint8")}, step=3, dataformats="NHWC")


@_installed("tensorboard")
def test_tensorboard_gets_scalars_text_images_and_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _on_ranks("tensorboard", tmp_path, {"filename_suffix": ".mine"}, more=_more_tensorboard)
    folder = tmp_path / "project"
    assert len(list(folder.glob("events.*.mine"))) == 1
    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Tags()["images"] == ["picture"]
    assert events.Tags()["tensors"] == ["note/text_summary"]
    (hparams,) = folder.glob("*/hparams.yml")
    assert hparams.read_text() == '"lr": 0.1\n'


@_installed("tensorboard")
def test_hyperparameters_of_all_kinds_are_kept_for_tensorboard(tmp_path):
    yaml = pytest.importorskip("yaml")
    accelerator = Accelerator(log_with="tensorboard", project_dir=tmp_path)
    config = {"lr": 1e-05, "n": 3, "flag": True, "none": None, "text": "a: 'b'", "list": [1, 2]}
    accelerator.init_trackers("project", config | {"tensor": torch.tensor(2.5), "big": -1e16})
    accelerator.end_training()
    (hparams,) = tmp_path.glob("project/*/hparams.yml")
    expected = config | {"list": "[1, 2]", "tensor": 2.5, "big": -1e16}
    assert yaml.safe_load(hparams.read_text()) == expected


def _more_wandb(tracker):
    tracker.log_images({"picture": [numpy.zeros((4, 4, 3), "uint8")]}, step=3)
    tracker.log_table("rows", columns=["a"], data=[[1]], step=3)


@_installed("wandb")
def test_wandb_keeps_an_offline_run(tmp_path):
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    _on_ranks("wandb", tmp_path, {"name": "first"}, env, _more_wandb)
    (run,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = run.read_bytes()
    assert b"project" in data
    assert b"first" in data
    assert data.index(b"0.5", data.index(b"loss")) < data.index(b"0.25")
    assert data.index(b"0.1", data.index(b"lr"))
    media = {path.parent.name for path in run.parent.glob("files/media/*/*")}
    assert media == {"images", "table"}


@_installed("trackio")
def test_trackio_keeps_a_database(tmp_path):
    env = {"TRACKIO_DIR": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"}
    _on_ranks("trackio", tmp_path, {"name": "first", "auto_log_cpu": False}, env)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "project.db")) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
        (config,) = database.execute("select config from configs").fetchone()
    kept = [(name, step, json.loads(metrics)["loss"]) for name, step, metrics in rows]
    assert kept == [("first", 1, 0.5), ("first", 2, 0.25)]
    assert {k: v for k, v in json.loads(config).items() if k[0] != "_"} == {"lr": 0.1}


def _more_mlflow(tracker):
    from pathlib import Path

    tracker.log({"note": "text", "acc": 0.9})
    Path("file.txt").write_text("kept")
    tracker.log_artifact("file.txt", artifact_path="files")
    tracker.store_init_configuration({"long": "x" * 100_000} | {f"p{i}": i for i in range(150)})


@_installed("mlflow")
def test_mlflow_keeps_parameters_metrics_and_artifacts(tmp_path):
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "MLFLOW_TAGS": '{"t": 1}'}
    _on_ranks("mlflow", tmp_path, {"logging_dir": str(tmp_path / "artifacts")}, env, _more_mlflow)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:

        def read(query):
            return database.execute(query).fetchall()

        metrics = read("select key, step, value from metrics order by key, step")
        assert metrics == [("acc", 0, 0.9), ("loss", 1, 0.5), ("loss", 2, 0.25)]
        assert read("select value from params where key = 'lr'") == [("0.1",)]
        assert read("select count(*) from params") == [(151,)]
        assert read("select value from tags where key = 't'") == [("1",)]
        assert read("select name from experiments where name = 'project'") == [("project",)]
    assert [p.read_text() for p in tmp_path.glob("artifacts/*/artifacts/files/file.txt")] == [
        "kept"
    ]


@_installed("dvclive")
def test_dvclive_writes_its_files(tmp_path):
    _on_ranks("dvclive", tmp_path, {"dir": "live", "save_dvc_exp": False, "dvcyaml": False})
    assert json.loads((tmp_path / "live/metrics.json").read_text())["loss"] == 0.25
    with open(tmp_path / "live/plots/metrics/loss.tsv") as file:
        rows = [(row["step"], row["loss"]) for row in csv.DictReader(file, delimiter="\t")]
    assert rows == [("1", "0.5"), ("2", "0.25")]
    assert (tmp_path / "live/params.yaml").read_text() == "lr: 0.1\n"


def _more_swanlab(tracker):
    tracker.log_images({"picture": [numpy.zeros((4, 4, 3), "uint8")]}, step=3)
    tracker.log({"note": "a" + "text", "kept": 1.5}, step=3)


@_installed("swanlab")
def test_swanlab_keeps_an_offline_run(tmp_path):
    options = {"mode": "offline", "log_dir": str(tmp_path / "logs")}
    _on_ranks("swanlab", tmp_path, options, more=_more_swanlab)
    (run,) = tmp_path.glob("logs/run-*")
    (record,) = run.glob("*.swanlab")
    data = record.read_bytes()
    for value in (0.5, 0.25, 1.5):
        assert struct.pack("<d", value) in data or struct.pack("<f", value) in data
    assert b"atext" not in data
    assert "lr" in (run / "files/config.yaml").read_text()
    assert len(list(run.glob("media/image/*.png"))) == 1


def _comet_options():
    from comet_ml import ExperimentConfig

    config = ExperimentConfig(
        offline_directory="offline", log_code=False, log_git_metadata=False, log_env_details=False
    )
    return {"online": False, "experiment_config": config}


def _more_comet(tracker):
    tracker.log({"note": "text", "several": {"a": 1.5}}, step=3)


@_installed("comet_ml")
def test_comet_keeps_an_offline_archive(tmp_path):
    _on_ranks("comet_ml", tmp_path, _comet_options, more=_more_comet)
    (archive,) = tmp_path.glob("offline/*.zip")
    lines = zipfile.ZipFile(archive).read("messages.json").splitlines()
    payloads = [json.loads(line)["payload"] for line in lines]
    metrics = [p["metric"] for p in payloads if p.get("metric")]
    values = {(m["metricName"], m["metricValue"], m["step"]) for m in metrics}
    assert {("loss", 0.5, 1), ("loss", 0.25, 2), ("a", 1.5, 3)} <= values
    text = json.dumps(payloads)
    assert '"note"' in text
    assert '"lr"' in text


def _more_clearml(tracker):
    tracker.log({"eval_acc": 0.75, "note": "left out"}, step=3)
    tracker.log({"final": 0.125})
    tracker.log_table("rows", columns=["a"], data=[[1]], step=3)


@_installed("clearml")
def test_clearml_keeps_an_offline_session(tmp_path):
    # Without a process of its own for its reports it closes at once, not after some seconds.
    (tmp_path / "own.conf").write_text("sdk { development { report_use_subprocess: false } }")
    env = {
        "CLEARML_CACHE_DIR": str(tmp_path / "cache"),
        "CLEARML_CONFIG_FILE": str(tmp_path / "own.conf"),
        "CLEARML_OFFLINE_MODE": "1",
    }
    quiet = ("auto_connect_frameworks", "auto_resource_monitoring", "auto_connect_arg_parser")
    options = dict.fromkeys((*quiet, "auto_connect_streams"), False)
    _on_ranks("clearml", tmp_path, options, env, _more_clearml)
    (session,) = tmp_path.glob("cache/offline/offline-*/")
    lines = (session / "metrics.jsonl").read_text().splitlines()
    events = [event for line in lines for event in json.loads(line)]
    scalars = {(e["metric"], e["variant"], e["value"]) for e in events if "value" in e}
    assert scalars == {
        ("loss", "train", 0.5),
        ("loss", "train", 0.25),
        ("acc", "eval", 0.75),
        ("Summary", "final", 0.125),
    }
    assert [e["metric"] for e in events if "plot_str" in e] == ["rows"]
    assert "lr = 0.1" in (session / "task.json").read_text()


def _more_aim(tracker):
    tracker.log_images({"picture": (numpy.zeros((4, 4, 3), "uint8"), "a caption")}, step=3)


def _read_aim(folder):
    aim: Any = importlib.import_module("aim")
    manager: Any = importlib.import_module("aim.sdk.index_manager")
    repo = aim.Repo(folder)
    (run_hash,) = repo.list_all_runs()
    manager.RepoIndexManager.get_index_manager(repo).index(run_hash)  # as `aim up` does
    run = aim.Run(run_hash, repo=folder, read_only=True)
    (metric,) = run.metrics()
    steps, (values, *_) = metric.data.numpy()
    kept = dict(zip(steps.tolist(), values.tolist(), strict=True))
    image = run.get_image_sequence("picture", metric.context).values.last()[1]
    return run.name, run["hparams"], metric.name, kept, image.caption


@_installed("aim")
def test_aim_keeps_a_repository(tmp_path):
    options = {"system_tracking_interval": None, "log_system_params": False}
    _on_ranks("aim", tmp_path, options, more=_more_aim)
    (read,) = on_ranks(_read_aim, str(tmp_path), procs=1)
    assert read == ("project", {"lr": 0.1}, "loss", {1: 0.5, 2: 0.25}, "a caption")
