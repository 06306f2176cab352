"""What Accelerate's `notebook_launcher` gets wrong (reproduced with 1.15) is right here."""

from __future__ import annotations

import pytest

TRAIN = """
import accelnb
def train(start=1.0):
    import torch
    from accelerate import Accelerator
    accelerator = Accelerator()
    total = accelerator.reduce(torch.tensor([start]))
    print("total", total.item())
    return accelerator.num_processes, accelerator.mixed_precision, total.item()
"""


@pytest.fixture
def run(shared_notebook):
    shared_notebook.run(TRAIN)
    return shared_notebook.run


def test_1_mixed_precision_takes_effect(run):
    output = run("accelnb.notebook_launcher(train, num_processes=2, mixed_precision='bf16')[0]")
    assert output.value == "(2, 'bf16', 2.0)"


def test_2_two_cpu_processes_are_one_training(run):
    output = run("[r[0] for r in accelnb.notebook_launcher(train, num_processes=2)]")
    assert output.value == "[2, 2]"


def test_3_the_return_values_come_back(run):
    assert run("accelnb.notebook_launcher(train, (3.0,), 2)[1][2]").value == "6.0"


def test_4_an_accelerate_state_in_the_kernel_does_not_matter(notebook):
    notebook.run("from accelerate import PartialState\nstate = PartialState(cpu=True)")
    notebook.run(TRAIN)
    output = notebook.run("accelnb.notebook_launcher(train, num_processes=2)[0][0]")
    assert output.value == "2"


def test_5_a_launch_after_an_error_works(run):
    run("def broken():\n    raise ValueError('once')")
    for _ in range(3):
        run("accelnb.notebook_launcher(broken, num_processes=2)", fails=True)
        assert run("accelnb.notebook_launcher(train, num_processes=2)[0][0]").value == "2"


def test_6_the_users_error_is_what_is_shown(run):
    run("def broken():\n    raise ValueError('mine')")
    output = run("accelnb.notebook_launcher(broken, num_processes=2)", fails=True)
    assert output.ename == "RankError"
    assert output.error.splitlines()[-1].startswith("RankError: ranks 0-1: ValueError: mine (Cell")
    assert len(output.error.splitlines()) < 12
    assert output.stderr == ""


def test_7_spawned_ranks_run_functions_of_a_cell(run):
    assert run("accelnb.launch(train, procs=2, start='spawn')[1][0]", timeout=90).value == "2"


def test_8_a_launch_with_one_process_does_not_block_later_ones(run):
    assert run("accelnb.notebook_launcher(train, num_processes=1)[0][0]").value == "1"
    assert run("accelnb.notebook_launcher(train, num_processes=2)[0][0]").value == "2"


def test_9_bad_arguments_are_explained_and_none_means_the_default(run):
    error = run("accelnb.notebook_launcher(train, mixed_precision='half')", fails=True).error
    assert error == "ConfigError: precision=half: choose one of no, fp16, bf16, fp8"
    assert run("len(accelnb.notebook_launcher(train, num_processes=None))").value == "2"
    run("import socket\ntaken = socket.create_server(('127.0.0.1', 0))")
    run("port = taken.getsockname()[1]")
    busy = "accelnb.notebook_launcher(train, num_processes=2, use_port=port)[0][0]"
    assert run(busy).value == "2"
    run("taken.close()")


def test_10_a_kaggle_variable_changes_nothing(run):
    run("import os\nos.environ['KAGGLE_USERNAME'] = 'me'")
    assert run("accelnb.notebook_launcher(train, num_processes=2)[0][0]").value == "2"
    run("del os.environ['KAGGLE_USERNAME']")


def test_12_output_is_labelled_and_whole_lines(run):
    run("def talk():\n    for i in range(200): print('a', 'line', 'of', 'words', i)")
    lines = run("accelnb.notebook_launcher(talk, num_processes=2);").lines
    assert lines == [f"[0-1] a line of words {i}" for i in range(200)]


def test_11_the_options_of_the_call_are_what_counts(run):
    # accelnb has no configuration file that could be ignored: each option of the call is used.
    output = run("accelnb.launch(train, procs=3, precision='fp16')[2][:2]")
    assert output.value == "(3, 'fp16')"
