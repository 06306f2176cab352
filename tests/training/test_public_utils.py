"""`accelnb.utils`: the names that code written for Accelerate imports."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import accelnb.utils
from accelnb import AccelnbError
from accelnb.training import accelerate_names, available


def test_every_name_can_be_imported():
    for name in accelnb.utils.__all__:
        assert getattr(importlib.import_module("accelnb.utils"), name) is not None


def test_type_checkers_see_the_names_where_they_are():
    (block,) = (
        node for node in ast.parse(Path(accelnb.utils.__file__).read_text()).body
        if isinstance(node, ast.If)
    )  # fmt: skip
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == accelnb.utils._HOMES


def test_importing_it_imports_nothing_heavy():
    program = (
        "import sys, accelnb.utils; "
        "print(sorted({'torch', 'numpy', 'IPython', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "package_with_code").mkdir()
    (tmp_path / "package_with_code" / "__init__.py").touch()
    (tmp_path / "folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert available.is_package_available("package_with_code")
    assert not available.is_package_available("folder_of_runs")


def test_versions_are_compared_as_versions_and_not_as_text():
    assert available.compare_versions("torch", ">", "2.0")
    assert available.is_torch_version("<", "100.0.0")
    with pytest.raises(AccelnbError, match="operation=~: choose one of >, >="):
        available.is_torch_version("~", "2.0")
    with pytest.raises(AccelnbError, match="no-such-library is not installed"):
        available.compare_versions("no-such-library", ">", "2.0")


def test_what_sets_environment_variables_for_a_block_leaves_them_as_they_were(monkeypatch):
    monkeypatch.setenv("ACCELERATE_KEPT", "before")

    @accelerate_names.purge_accelerate_environment
    def trains():
        os.environ["ACCELERATE_KEPT"] = "after"
        os.environ["ACCELERATE_NEW"] = "1"

    trains()
    with accelerate_names.patch_environment(accelerate_kept=1, another=2):
        assert (os.environ["ACCELERATE_KEPT"], os.environ["ANOTHER"]) == ("1", "2")
    with accelerate_names.clear_environment():
        assert dict(os.environ) == {}
        os.environ["ANOTHER"] = "x"
    assert os.environ["ACCELERATE_KEPT"] == "before"
    assert not {"ACCELERATE_NEW", "ANOTHER"} & set(os.environ)


def test_test_classes_leave_no_accelerate_variables_and_neither_do_their_subclasses():
    @accelerate_names.purge_accelerate_environment
    class Base:
        def test_one(self):
            os.environ["ACCELERATE_ONE"] = "1"

    class Derived(Base):
        def test_two(self):
            os.environ["ACCELERATE_TWO"] = "1"

    Derived().test_one()
    Derived().test_two()
    assert not {"ACCELERATE_ONE", "ACCELERATE_TWO"} & set(os.environ)


def test_a_port_is_free_until_something_listens_on_it():
    import socket

    port = accelerate_names.get_free_port()
    assert not accelerate_names.is_port_in_use(port)
    with socket.create_server(("localhost", port)):
        assert accelerate_names.is_port_in_use(port)
