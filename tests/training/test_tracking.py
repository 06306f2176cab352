"""Logging to trackers: which are chosen, what they get, on which rank, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator, AccelnbError
from accelnb.training import streaming
from accelnb.training.configuration import ProjectConfiguration
from accelnb.training.tracking import (
    GeneralTracker,
    filter_trackers,
    get_available_trackers,
    on_main_process,
    register_tracker_class,
    registry,
)


@pytest.fixture(autouse=True)
def _own_trackers(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    yield
    streaming.send_to(None)


class Recorder(GeneralTracker):
    """A tracker of a user: it keeps what was called."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, project="given", folder=None, fails=False):
        super().__init__()
        self.project, self.folder, self.fails = project, folder, fails
        self.calls = []

    @property
    def tracker(self):
        return self.calls

    @on_main_process
    def start(self):
        if self.fails:
            raise OSError("no server")
        self.calls.append("start")

    @on_main_process
    def store_init_configuration(self, values):
        self.calls.append(values)

    @on_main_process
    def log(self, values, step=None, **kwargs):
        self.calls.append((values, step, kwargs))

    @on_main_process
    def finish(self):
        self.calls.append("finish")


def test_a_tracker_of_ones_own_gets_the_run_from_its_start_to_its_end():
    recorder = Recorder()
    accelerator = Accelerator(log_with=recorder)
    accelerator.init_trackers("project", config={"lr": 0.1})
    values = {"loss": torch.tensor(0.5), "part": {"a": torch.tensor([2])}, "note": "text"}
    accelerator.log(values, step=3, log_kwargs={"recorder": {"tags": ["x"]}})
    assert accelerator.get_tracker("recorder") is recorder
    assert accelerator.get_tracker("recorder", unwrap=True) is recorder.calls
    accelerator.end_training()
    logged = ({"loss": 0.5, "part": {"a": 2}, "note": "text"}, 3, {"tags": ["x"]})
    assert recorder.calls == ["start", {"lr": 0.1}, logged, "finish"]
    assert isinstance(logged[0]["loss"], float)


def _rank_records():
    recorder = Recorder()
    accelerator = Accelerator(log_with=recorder)
    accelerator.init_trackers("project", config={"lr": 0.1})
    accelerator.log({"loss": torch.tensor(0.5)}, step=1)
    tracker = accelerator.get_tracker("recorder")
    tracker.log({"direct": 1})
    tracker.log_images({"any": None}) if not accelerator.is_main_process else None
    accelerator.get_tracker("recorder", unwrap=True).count("anything")
    recorder.log({"own": 1})
    accelerator.end_training()
    accelerator.wait_for_everyone()  # the group of the ranks is still there
    return len(recorder.calls), len(accelerator.trackers)


def test_only_the_main_process_logs_and_the_others_may_call_the_same():
    assert on_ranks(_rank_records) == [(6, 0), (0, 0)]


def test_a_registered_class_is_made_by_its_name_with_its_folder_and_arguments():
    class Filed(Recorder):
        name = "filed"
        requires_logging_directory = True

    register_tracker_class(Filed)
    with pytest.raises(AccelnbError, match=r"^log_with=filed: it writes files, but no folder"):
        Accelerator(log_with="filed")
    accelerator = Accelerator(log_with="filed", project_config=ProjectConfiguration("a", "b"))
    accelerator.init_trackers("project", init_kwargs={"filed": {"fails": False}, "wandb": {}})
    made = accelerator.get_tracker("filed")
    assert (made.project, made.folder) == ("project", "b")


def test_what_cannot_be_registered_is_refused_and_a_known_name_warned_of():
    with pytest.raises(AccelnbError, match="derive it from GeneralTracker"):
        register_tracker_class(dict)  # pyright: ignore[reportArgumentType]

    class Nameless(GeneralTracker):
        requires_logging_directory = False

    with pytest.raises(AccelnbError, match=r"^class Nameless: define name in it$"):
        register_tracker_class(Nameless)
    with pytest.raises(AccelnbError, match=r"^class Nameless: define name, tracker in it$"):
        Nameless()

    class Other(Recorder):
        name = "wandb"

    with pytest.warns(UserWarning, match="Other takes the place of the tracker 'wandb'"):
        register_tracker_class(Other)
    accelerator = Accelerator(log_with="wandb")
    accelerator.init_trackers("project")
    assert isinstance(accelerator.get_tracker("wandb"), Other)


def test_each_tracker_is_taken_once_and_all_means_those_installed(monkeypatch):
    recorder = Recorder()
    assert filter_trackers(["notebook", recorder, "notebook"]) == ["notebook", recorder]
    monkeypatch.setattr(
        registry, "is_package_available", lambda name: name in ("wandb", "comet_ml")
    )
    monkeypatch.setattr(registry, "require", lambda name: None)
    assert filter_trackers([recorder, "all"]) == [recorder, "comet_ml", "wandb"]
    streaming.send_to(lambda *_: None)
    assert get_available_trackers() == ["comet_ml", "notebook", "wandb"]


def test_a_missing_package_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = r"^log_with=wandb: the package is not installed: pip install wandb, or leave"
    with pytest.raises(AccelnbError, match=said):
        Accelerator(log_with=["notebook", "wandb"])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("wandbb", r"^log_with=wandbb: choose from aim, .*, wandb, all, or pass an instance"),
        (Recorder, r"^log_with=<class .*Recorder'>: choose from aim"),
        ("tensorboard", r"^log_with=tensorboard: it writes files, but no folder is given: pass p"),
    ],
)
def test_a_wrong_log_with_is_one_clear_line(wanted, said):
    with pytest.raises(AccelnbError, match=said) as raised:
        Accelerator(log_with=wanted)
    assert "\n" not in str(raised.value)


def test_wrong_calls_are_one_clear_line_and_change_nothing():
    recorder = Recorder()
    accelerator = Accelerator(log_with=recorder)
    first = r"log_with=recorder: call accelerator.init_trackers\(project_name\) first$"
    with pytest.raises(AccelnbError, match=r"^log\(\) with " + first):
        accelerator.log({"loss": 0.5})
    with pytest.raises(AccelnbError, match=r"^get_tracker\(\) with " + first):
        accelerator.get_tracker("recorder")
    with pytest.raises(AccelnbError, match=r"^init_kwargs: no tracker is called 'recoder'; choose"):
        accelerator.init_trackers("project", init_kwargs={"recoder": {}})
    assert (recorder.calls, accelerator.trackers) == ([], [])
    accelerator.init_trackers("project")
    with pytest.raises(AccelnbError, match=r"^get_tracker\('wandb'\): choose from recorder$"):
        accelerator.get_tracker("wandb")
    with pytest.raises(AccelnbError, match=r"^log_kwargs: no tracker is called 'recoder'"):
        accelerator.log({"loss": 0.5}, log_kwargs={"recoder": {}})
    with pytest.raises(AccelnbError, match=r"^log\(\) takes a dict of names and values, not a flo"):
        accelerator.log(0.5)  # pyright: ignore[reportArgumentType]
    assert recorder.calls == ["start"]


def test_if_a_tracker_does_not_start_those_before_it_are_ended():
    recorder = Recorder()
    accelerator = Accelerator(log_with=[recorder, Recorder(fails=True)])
    with pytest.raises(OSError, match="no server"):
        accelerator.init_trackers("project")
    assert (recorder.calls, accelerator.trackers) == (["start", "finish"], [])


def test_a_second_init_trackers_ends_the_first_runs_as_when_a_cell_is_run_again():
    recorder = Recorder()
    accelerator = Accelerator(log_with=recorder)
    accelerator.init_trackers("project")
    accelerator.init_trackers("project")
    assert recorder.calls == ["start", "finish", "start"]
    assert accelerator.trackers == [recorder]


def test_without_trackers_all_calls_do_nothing():
    accelerator = Accelerator()
    accelerator.log({"loss": 0.5})
    accelerator.init_trackers("project", config={"lr": 0.1})
    accelerator.get_tracker("wandb").log_images({})
    assert accelerator.trackers == []


def test_where_there_is_a_notebook_it_is_the_default_and_needs_no_start():
    sent = []
    streaming.send_to(lambda *streamed: sent.append(streamed))
    accelerator = Accelerator()
    values = {"loss": torch.tensor(0.5), "note": "text", "none": None, "lr": {"a": 1, "b": 2}}
    accelerator.log(values, step=7)
    accelerator.end_training()
    accelerator.log({"later": 1})
    assert sent == [
        ("loss", 0.5, 7, None), ("lr/a", 1, 7, None), ("lr/b", 2, 7, None), ("later", 1, None, None)
    ]  # fmt: skip
    accelerator.get_tracker("notebook").log_images({"x": [torch.rand(3, 4, 4)] * 2}, step=1)
    assert [(name, kind) for name, _, _, kind in sent[4:]] == [("x/0", "image"), ("x/1", "image")]
    assert Accelerator(log_with=Recorder()).log_with != accelerator.log_with
    assert Accelerator(log_with=[]).log_with == []
