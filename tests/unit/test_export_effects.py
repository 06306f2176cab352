"""A script does what its notebook did to the objects of its jobs, in the order in which it did."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_files import write

from accelnb.export import ExportError, export_notebook

HELPER = """
registry = {}
settings = {"lr": 1}
class Learner:
    lr = 1
    def name(self): return "learner"
class Catalog(dict):
    def register(self, name):
        return lambda made: self.setdefault(name, made)
def register(name):
    def keep(made):
        registry[name] = made
        return made
    return keep
def patch(function):
    of = next(iter(function.__annotations__.values()))
    setattr(of, function.__name__, function)
def setup(): settings["lr"] += 1
def merge(into, other): into.update(other)
def samples(count): return list(range(count))
"""


class Runner:
    """Runs cells and scripts, each in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, Path(__file__).with_name("export_runner.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def printed(self, folder: Path, given: tuple[str, ...] | Path) -> str:
        process = self.process
        assert process.stdin
        assert process.stdout
        what = str(given) if isinstance(given, Path) else given
        process.stdin.write(json.dumps([str(folder), what]) + "\n")
        process.stdin.flush()
        printed = json.loads(process.stdout.readline())  # it ends each process after a minute
        assert printed is not None, "it ended with an error, which is above"
        return printed


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.process.kill()
    runner.process.communicate()


def cases() -> dict[str, tuple[str, ...]]:
    """Return the cells of each small notebook in the file beside this one."""
    text = Path(__file__).with_name("export_cases.txt").read_text()
    found = [case.partition("\n") for case in text.split("==== ")[1:]]
    return {name: tuple(cells.strip().split("\n# %%\n")) for name, _, cells in found}


CASES = cases()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "export_helper.py").write_text(HELPER)
    (tmp_path / "export_late.py").write_text("import os\nseen = os.environ.get('EXPORT_A')\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "export_more.py").write_text("x = 3\n")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_the_script_prints_what_the_job_printed(folder, runner, case):
    cells = CASES[case]
    export_notebook(write(folder, *cells), folder / "train.py")
    expected = runner.printed(folder, cells)
    assert expected.strip()
    assert runner.printed(folder, folder / "train.py") == expected


@pytest.mark.parametrize(
    ("cells", "left_out"),
    [
        (("df.head()", "df.x.value_counts().plot.bar()", "len(df), df.shape", "df[df > 3]"), "df."),
        (("fig, ax = plt.subplots()", "ax.imshow(df)\nax.grid(df)", "fig.savefig('a')"), "fig"),
        (("corr = df.corr()\ncorr.style.background_gradient()",), "corr"),
        (("for c in df:\n    print(c, df[c].nunique())",), "for c"),
        (("other = make(df)", "other.x = 1"), "other"),
        (("def plain(f):\n    return f", "@plain\ndef extra(d: Frame):\n    pass"), "extra"),
        (("@functools.wraps(make)\ndef extra(d: Frame):\n    pass",), "extra"),
        (("class More(Frame):\n    pass",), "More"),
        (("df2 = copy.copy(df)", "df2['a'] = 1"), "df2"),
        (("import nets\ndf[0] = nets", "net = nets.make(2)", "net.load_state_dict({})"), "net."),
        (("class S:\n    def __call__(self, x):\n        self.x = x", "print(len(df))"), "(len("),
        (("def imshow(x):\n    plt.imshow(x.a)\n    plt.show()", "imshow(df)"), "imshow"),
        (("import torch\ndf[0] = torch", "def f():\n    t = torch.ones(2)\n    t.fill_(3)", "f()"),
         "f()"),
    ],
)  # fmt: skip
def test_what_changes_nothing_of_the_job_is_left_out(tmp_path, cells, left_out):
    before = "import copy, functools\nimport matplotlib.pyplot as plt\nclass Frame(list):\n    pass"
    make = "def make(x):\n    return [len(x)]\ndf = Frame('ab')"
    path = write(tmp_path, before, make, *cells, "%%distributed\nprint(df)")
    exported = export_notebook(path, tmp_path / "train.py").script
    assert left_out not in exported
    assert "df = Frame('ab')" in exported


def test_what_computes_nothing_is_no_work_of_the_notebook(tmp_path):
    config = "cfg = dict(a=1)\ncfg.update(b=2)\nimport argparse, pathlib, torch"
    parser = (
        "p = argparse.ArgumentParser()\np.add_argument('-x', default=1)\nx = p.parse_args([]).x"
    )
    folder = "pathlib.Path('a').mkdir(exist_ok=True)"
    job = "%%distributed\nprint(cfg, x)"
    exported = export_notebook(write(tmp_path, config, parser, folder, job), tmp_path / "a.py")
    assert "cfg.update(b=2)" in exported.script
    assert "mkdir" in exported.script
    assert "work_as" not in exported.script
    path = write(tmp_path, config, parser, "cfg.update(c=torch.rand(1))", job)
    assert 'work_as("notebook")' in export_notebook(path, tmp_path / "b.py").script


def test_a_number_of_the_notebook_is_a_constant_of_the_script(tmp_path):
    """Also if it is given to what may change what it is given."""
    cells = (
        "import torch\nsize = 2",
        "%%distributed\nm = torch.nn.Linear(2, 2)\nm(torch.ones(size))",
    )
    exported = export_notebook(write(tmp_path, *cells), tmp_path / "train.py")
    assert "\nsize = 2\n" in exported.script


LAUNCH = "import accelnb\nlog = []\ndef train(lr):\n    log.append(lr)\n    return log"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (("cfg = {}", "%%distributed\ncfg['a'] = 2", "cfg['b'] = 3", "%%distributed\ncfg"),
         "cell 3, line 1: cfg is the notebook's here, but cell 2, line 2 gives it another value"),
        (("cfg = {}", "%%distributed\nc = cfg\nc['a'] = 2", "b = len(cfg)", "%%distributed\nb"),
         "cell 3, line 1: cfg is the notebook's here, but cell 2, line 3 gives it another value"),
        (("cfg = {}\ndef f(c):\n    c.update(a=1)\ndef g():\n    return cfg",
          "%%distributed\nf(cfg)", "b = g()", "%%distributed\nb"),
         "cell 3, line 1: cfg is the notebook's here, but cell 2, line 2 gives it another value"),
        ((LAUNCH, "for lr in (1, 2):\n    r = accelnb.launch(train, lr)"),
         "cell 2, line 1: what it launches changes log on its ranks only, and the next launch"),
        ((LAUNCH, "r = accelnb.launch(train, 1)", "r = accelnb.launch(train, 2)"),
         "cell 2, line 1: what it launches changes log on its ranks only, and cell 3, line 1"),
    ],
)  # fmt: skip
def test_what_the_order_of_changes_would_make_another_is_refused(tmp_path, cells, said):
    with pytest.raises(ExportError) as error:
        export_notebook(write(tmp_path, *cells), tmp_path / "train.py")
    assert str(error.value).startswith(said)


def test_a_configuration_may_change_between_launches_and_jobs(tmp_path):
    train = "import accelnb\ncfg = {}\ndef train(c):\n    return sorted(c)"
    launch = "r = accelnb.launch(train, cfg)\nprint(r)"
    cells = (train, launch, "cfg['a'] = 1", launch, "cfg['b'] = 1", "%%distributed\ntrain(cfg)")
    script = export_notebook(write(tmp_path, *cells), tmp_path / "train.py").script
    order = [script.index(part) for part in ("cfg = {}", "cfg['a']", "cfg['b']", "shown = train")]
    assert order == sorted(order)
