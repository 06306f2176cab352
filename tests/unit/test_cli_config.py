"""`accelnb config`: the questions, the file, the page about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from accelnb.cli.config import command
from accelnb.options.config import LaunchConfig, from_mapping, options
from accelnb.options.config_file import read_file, to_yaml

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_questions_are_asked_again_until_this_machine_can_do_it_and_the_panel_reads_the_file():
    answers = ["cpu", "none", "4", "fp8", "bf16", "", "tp=3", "dp_replicate=2,tp=2", "8"]
    done = CliRunner().invoke(command, input="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert "procs=none: must be a whole number" in done.output
    assert "precision=fp8: cpu cannot; choose one of no, bf16, fp16" in done.output
    assert "mesh=tp=3: has 3 places for 4 ranks" in done.output
    assert "hsdp      not here: say how large its groups are" in done.output
    chosen = {"procs": 4, "device": "cpu", "precision": "bf16", "accumulation": 8}
    chosen["mesh"] = "dp_replicate=2,tp=2"
    config = from_mapping(LaunchConfig, chosen)
    assert Path("accelnb.yaml").read_text() == to_yaml(config)
    line = "%%distributed --procs 4 --device cpu --precision bf16 --mesh dp_replicate=2,tp=2"
    assert line in done.output


def test_an_answer_that_does_not_come_leaves_the_file_as_it_was():
    Path("accelnb.yaml").write_text("version: 1\nprocs: 3\n")
    done = CliRunner().invoke(command, input="cpu\n")
    assert (done.exit_code, done.stderr) == (1, "\naccelnb: stopped; nothing was written\n")
    assert Path("accelnb.yaml").read_text() == "version: 1\nprocs: 3\n"


def test_options_change_the_file_without_questions_and_show_says_where_values_come_from():
    assert CliRunner().invoke(command, ["--procs", "4", "--precision", "bf16"]).exit_code == 0
    assert CliRunner().invoke(command, ["--precision", "fp16"]).exit_code == 0
    assert read_file("accelnb.yaml") == {"procs": 4, "precision": "fp16"}
    shown = CliRunner().invoke(command, ["--show", "--accumulation", "2"]).output.splitlines()
    assert "  procs         4  (file)" in shown
    assert "  accumulation  2  (given)" in shown
    assert any(line.startswith("  device        auto, here ") for line in shown)
    assert CliRunner().invoke(command, ["--default"]).exit_code == 0
    assert read_file("accelnb.yaml") == {}


def test_a_wrong_file_is_named_with_its_line_and_stays():
    Path("accelnb.yaml").write_text("version: 1\nprecision: fp12\n")
    done = CliRunner().invoke(command, ["--procs", "2"])
    assert done.exit_code == 2
    assert done.stderr.startswith("accelnb: accelnb.yaml, line 2: precision=fp12: choose one of")
    assert "fp12" in Path("accelnb.yaml").read_text()


def reference() -> str:
    """Return the table of options as the page has it."""
    lines = ["| key and flag | default | values | what it is |", "|---|---|---|---|"]
    for option in options(LaunchConfig):
        values = ", ".join(f"`{choice}`" for choice in option.choices) or option.expects
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        what = option.help.replace("|", "\\|")
        default = option.write(option.default)
        lines.append(f"| `{option.name}` ({flags}) | `{default}` | {values} | {what} |")
    return "\n".join(lines)


def test_the_page_has_the_options_as_they_are():
    text = PAGE.read_text()
    begin, end = "<!-- options: begin -->\n", "\n<!-- options: end -->"
    assert text.partition(begin)[2].partition(end)[0] == reference(), (
        "docs/configuration.md: put in what `python tests/unit/test_cli_config.py` prints"
    )


if __name__ == "__main__":
    print(reference())
