"""The `accelnb` command, its report of the machine, and the recipe for Binder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.shell_completion import ShellComplete
from packaging.requirements import Requirement

import accelnb
from accelnb.cli import main as cli

ROOT = Path(__file__).parents[2]


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accelnb", *words],
        env=os.environ | {"COLUMNS": "100"} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_comes_at_once_and_names_all_commands():
    done = command("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for name in ("env", "kernel", "test", "accelnb test --procs 4"):
        assert name in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rich_click" in imported
    assert not imported & {"torch", "IPython", "accelnb.options.config"}  # nothing that takes long
    assert command("--version").stdout == f"accelnb {accelnb.__version__}\n"


def test_wrong_use_ends_with_2_and_says_in_one_line_what_there_is():
    done = command("lanch")
    assert done.returncode == 2
    said = "no such command 'lanch'. Did you mean 'launch'? See accelnb --help"
    assert done.stderr == f"accelnb: {said}\n"


def test_the_shell_completes_commands_options_choices_and_files():
    shell = ShellComplete(cli.accelnb, {}, "accelnb", "_ACCELNB_COMPLETE")

    def completed(*words: str) -> list[str]:
        return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]

    assert completed("la") == ["launch"]
    assert completed("launch", "--prec") == ["--precision"]
    assert completed("launch", "--rdzv-e") == ["--rdzv-endpoint"]
    assert completed("config", "--precision", "b") == ["bf16"]
    (item,) = shell.get_completions(["launch"], "tra")
    assert item.type == "file"  # which the shell itself looks for


def test_an_error_of_accelnb_is_one_line_on_stderr(tmp_path: Path):
    script = (
        "import sys, types, rich_click as click\n"
        "from accelnb.errors import AccelnbError\n"
        "from accelnb.cli import main\n"
        "@click.command()\n"
        "def command(): raise AccelnbError('procs=0: must be at least 1')\n"
        "module = types.ModuleType('accelnb.cli.env'); module.command = command\n"
        "sys.modules['accelnb.cli.env'] = module\n"
        "sys.argv = ['accelnb', 'env']; main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "accelnb: procs=0: must be at least 1\n")


def test_the_plain_report_can_be_pasted_in_a_bug_report(tmp_path: Path):
    (tmp_path / "accelnb.yaml").write_text("version: 1\nprecision: fp12\n")
    secrets = {"HF_TOKEN": "hf_secret", "NCCL_AUTH_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "sec"}
    done = subprocess.run(
        [sys.executable, "-m", "accelnb", "env", "--plain"],
        cwd=tmp_path,
        env=os.environ | secrets | {"NCCL_DEBUG": "INFO", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for line in ("accelnb  ", "torch  ", "ipykernel  ", "processors  ", "NCCL_DEBUG", "INFO"):
        assert line in done.stdout
    assert "accelnb.yaml, line 2: precision=fp12" in done.stdout  # among what to put right
    assert "~/accelnb.yaml, which is wrong" in done.stdout
    assert "sec" not in done.stdout.replace("seconds", "")
    assert str(tmp_path) not in done.stdout


def test_binder_builds_from_what_is_in_the_repository():
    lines = (ROOT / "binder/requirements.txt").read_text().splitlines()
    names = [
        Requirement(line).name for line in lines if line and not line.startswith(("#", "--extra"))
    ]
    assert "torch" in names
    assert any(line == "--extra-index-url https://download.pytorch.org/whl/cpu" for line in lines)
    runtime = (ROOT / "binder/runtime.txt").read_text().strip()
    assert tuple(map(int, runtime.removeprefix("python-").split("."))) >= (3, 11)
    build = ROOT / "binder/postBuild"
    assert os.access(build, os.X_OK)
    assert subprocess.run(["bash", "-n", str(build)]).returncode == 0
    page = (ROOT / "docs/colab-and-kaggle.md").read_text()
    opened = page.partition("urlpath=lab/tree/")[2].partition("`")[0]
    assert (ROOT / opened).is_file()
