"""Which names of the notebook a cell's code means: builtins, imports, words in texts."""

from __future__ import annotations

import itertools

import pytest

STATE = """
registry, settings, seen = {}, {"lr": 0.1}, []
alias = settings

class Options:
    lr = 0.1

    class Data:
        size = 1

    def rate(self):
        return self.lr, self.Data.size

options = Options()
options.depth = 1
where = {"rank": __import__("os").environ.get("RANK")}
table = __import__("numpy").zeros(2)
limit = 3

def register(name):
    registry[name] = len(registry)

def look():
    return registry, settings, alias is settings, options.lr, table.sum().item()
"""


_numbers = itertools.count()


@pytest.fixture
def state(shared_notebook):
    """A module beside the notebook; each test has one of its own."""
    name = f"state{next(_numbers)}"
    shared_notebook.run(f"%%writefile {name}.py\n{STATE}")
    return name


@pytest.mark.parametrize(
    ("bound", "asked", "value"),
    [
        ("import torch\ninput = torch.ones(2)", "input.sum().item()", "2.0"),
        ("from numpy import *", "sum([[1, 2], [3, 4]], axis=0).tolist(), round(2.5)", None),
        ("from rich import print", "print.__module__", "'rich'"),
        ("type = 'adam'\ndef named(): return type", "type, named()", "('adam', 'adam')"),
        ("max, id, filter, hash, dir = range(5)", "max + id + filter + hash + dir", "10"),
        ("class list(list):\n    mine = True", "list().mine", "True"),
    ],
)
def test_a_name_of_the_notebook_goes_before_pythons_own(shared_notebook, bound, asked, value):
    shared_notebook.run(bound)
    value = value or shared_notebook.run(asked).value
    assert shared_notebook.run(f"%distributed {asked}").said == {value}
    shared_notebook.run("%reset -f\nimport accelnb")


def test_a_builtin_is_back_when_the_notebook_deletes_its_name(shared_notebook):
    run = shared_notebook.run
    run("id = 'a'\ndef same(x): return id")
    assert run("%distributed id, same(1)").said == {"('a', 'a')"}
    run("def id(x): return x")
    assert run("%distributed id(3), same(1) is id").said == {"(3, True)"}
    run("del id")
    assert run("%distributed id.__module__, same(1).__module__").said == {
        "('builtins', 'builtins')"
    }
    run("max = 1")
    run("%distributed max")
    run("%%distributed\nmax = 'its own'")
    run("del max")
    assert run("%distributed max").said == {"'its own'"}


def test_what_an_import_bound_is_the_modules_own_object(shared_notebook, state):
    run = shared_notebook.run
    run(f"from {state} import registry, settings as chosen, register, look\nimport {state} as it")
    run("%%distributed\nregister('a')\nregistry['b'] = rank")
    shown = run("%distributed registry, registry is it.registry, chosen is it.settings")
    assert shown.lines == [
        "[0] ({'a': 0, 'b': 0}, True, True)",
        "[1] ({'a': 0, 'b': 1}, True, True)",
    ]
    assert run("registry").value == "{}"


def test_a_change_of_a_modules_object_reaches_the_module_on_ranks(shared_notebook, state):
    run = shared_notebook.run
    run(f"from {state} import *")
    before = run("%distributed look()").said
    assert before == {"({}, {'lr': 0.1}, True, 0.1, 0.0)"}
    run("settings['lr'] = 0.5; options.lr = 0.5; table[0] = 7; register('a'); limit")
    after = run("%distributed settings, options.depth, table[0].item(), look()").said
    looked = "({'a': 0}, {'lr': 0.5}, True, 0.5, 7.0)"
    assert after == {"({'lr': 0.5}, 1, 7.0, " + looked + ")"}
    run("class Holder: pass\nholder = Holder(); holder.settings = settings")
    run("%distributed holder.settings")
    run("settings['lr'] = 0.9")
    assert run("%distributed holder.settings is settings, look()[1]").said == {
        "(True, {'lr': 0.9})"
    }


def test_a_change_in_the_cell_of_the_import_reaches_the_ranks(shared_notebook, state):
    shared_notebook.run(f"from {state} import settings, look; settings['lr'] = 0.5")
    assert shared_notebook.run("%distributed look()[1], settings").said == {
        "({'lr': 0.5}, {'lr': 0.5})"
    }


def test_a_call_in_the_cell_of_the_import_reaches_the_ranks(shared_notebook, state):
    shared_notebook.run(f"from {state} import registry, register, look\nregister('a')")
    assert shared_notebook.run("%distributed look()[0], registry").said == {"({'a': 0}, {'a': 0})"}


def test_an_edited_module_is_named_until_ranks_start_anew(notebook):
    run = notebook.run
    run("%%writefile beside.py\ndef version(): return 1")
    run("%%writefile other.py\nclass Net:\n    def size(self): return 1")
    run("from beside import version\nimport other, importlib, sys\nnet = other.Net()")
    run("%distributed --procs 2 version(), other.Net().size()")
    run("importlib.reload(other); other.Net.extra = lambda self: 1")
    assert run("%distributed other.Net().extra()").stderr == ""
    run("%%writefile beside.py\ndef version(): return 22")
    run("%%writefile other.py\nclass Net:\n    def size(self): return 22")
    run("importlib.reload(sys.modules['beside']); importlib.reload(other)")
    said = run("%distributed 1").stderr
    for module in ("beside", "other"):
        assert f"{module} was edited and reloaded in the notebook; ranks that imported it" in said
    assert run("%distributed 1").stderr == ""
    fresh = run("from beside import version\n%distributed --fresh version(), other.Net().size()")
    assert (fresh.said, fresh.stderr) == ({"(22, 22)"}, "")


def test_what_the_notebook_sets_in_its_module_reaches_the_ranks(shared_notebook, state):
    run = shared_notebook.run
    run(f"import {state} as config")
    assert run("%distributed config.limit, config.look()[1]").said == {"(3, {'lr': 0.1})"}
    run("%distributed --ranks 1 setattr(config, 'seen', ['its own'])")
    run("config.limit = 4; config.settings['lr'] = 0.5; config.more = 'new'")
    run("def register(name): return 'patched'\nconfig.register = register")
    assert run("%distributed config.limit, config.more, config.look()[1:3], config.seen").lines == [
        "[0] (4, 'new', ({'lr': 0.5}, True), [])",
        "[1] (4, 'new', ({'lr': 0.5}, True), ['its own'])",
    ]
    assert run("%distributed config.register(1)").said == {"'patched'"}


@pytest.mark.parametrize(
    ("bound", "options"),
    [
        ("from {state} import Options", "Options"),
        ("from {state} import *", "Options"),
        ("import {state} as config", "config.Options"),
        ("import {state} as config; Options = config.Options", "Options"),
    ],
)
def test_settings_that_are_a_class_of_a_module_reach_the_ranks(
    shared_notebook, state, bound, options
):
    run = shared_notebook.run
    run(bound.format(state=state))
    asked = f"{options}().rate(), __import__('{state}').options.rate()"
    assert run(f"%distributed {asked}").said == {"((0.1, 1), (0.1, 1))"}
    run(f"%distributed --ranks 1 setattr({options}, 'own', rank)")
    run(f"{options}(); repr({options}.lr)")
    assert run(f"%distributed --ranks 1 {options}.own").said == {"1"}
    run(f"{options}.lr = 0.5; {options}.Data.size = 2; {options}.more = {{}}")
    assert run(f"%distributed {asked}, {options}.more").said == {"((0.5, 2), (0.5, 2), {})"}
    run(f"del {options}.more; {options}.rate = lambda self: self.lr")
    assert run(f"%distributed {options}().rate(), hasattr({options}, 'more')").said == {
        "(0.5, False)"
    }


def test_modules_in_packages_beside_the_notebook(shared_notebook):
    run = shared_notebook.run
    run("import pathlib; pathlib.Path('project').mkdir()")
    run("%%writefile project/__init__.py\nfrom . import settings")
    run(
        "%%writefile project/settings.py\nimport os\nlr, tags = 1, {'a': 1}\n"
        "where = {'rank': os.environ.get('RANK')}\nclass CFG:\n    depth = 1"
    )
    run("import project")
    run("import project.settings")
    asked = "project.settings.lr, project.settings.CFG.depth, project.settings.tags"
    assert run(f"%distributed {asked}").said == {"(1, 1, {'a': 1})"}
    run("project.settings.lr = 2; project.settings.CFG.depth = 3; project.settings.tags['b'] = 2")
    assert run(f"%distributed {asked}").said == {"(2, 3, {'a': 1, 'b': 2})"}
    assert run("%distributed project.settings.where").said == {"{'rank': '0'}", "{'rank': '1'}"}


def test_another_object_in_a_modules_place_reaches_the_ranks(shared_notebook, state):
    run = shared_notebook.run
    run(f"import {state} as config, collections, types")
    run("%distributed config.limit")
    run(
        "config.limit = {'steps': 3}; config.new = [1]; config.seen = types.SimpleNamespace(n=1)\n"
        "config.registry = collections.Counter('aab')\n"
        "config.settings = collections.defaultdict(list, lr=1)"
    )
    shown = run(
        "%distributed config.limit, config.new, config.seen.n, dict(config.registry), "
        "config.settings['other'], config.settings['lr']"
    )
    assert shown.said == {"({'steps': 3}, [1], 1, {'a': 2, 'b': 1}, [], 1)"}


def test_a_large_object_of_a_module_is_named(shared_notebook, state):
    run = shared_notebook.run
    run(f"%%writefile {state}.py\nwords = [str(i) for i in range(200_000)]")
    run(f"import {state}")
    said = f"accelnb: {state}.words is too large to be compared before each cell"
    assert said in run(f"%distributed len({state}.words)").stderr
    assert said not in run(f"%distributed len({state}.words)").stderr


@pytest.mark.parametrize(
    "cell",
    [
        "try:\n    from lazy_{state} import missing\nexcept RuntimeError:\n    missing = [1]",
        "total = " + "+".join(["1"] * 500),
        "import types\nnameless = types.ModuleType('n')\ndel nameless.__name__\nnameless.x = 1",
        "class Proxy:\n    @property\n    def __class__(self): raise RuntimeError('unbound')\n"
        "proxies = [Proxy()]\nproxies[0].__dict__",
    ],
    ids=["module that fails lazily", "deep sum", "module without name", "unbound proxy"],
)
def test_odd_things_in_the_notebook_are_no_error_after_its_cells(shared_notebook, state, cell):
    run = shared_notebook.run
    run(f"%%writefile lazy_{state}.py\ndef __getattr__(name): raise RuntimeError('no ' + name)")
    for text in (cell.format(state=state), "pass"):
        output = run(text)
        assert (output.stdout, output.stderr) == ("", "")
    assert run("%distributed rank").said == {"0", "1"}


def test_a_cell_too_deep_to_be_followed_runs_on_the_ranks(shared_notebook):
    shared_notebook.run("one = 1")
    output = shared_notebook.run("%distributed " + "+".join(["one"] * 500))
    assert output.said == {"500"}


def test_a_rank_imports_a_changed_module_only_when_it_needs_it(shared_notebook, state):
    run = shared_notebook.run
    run(f"import {state} as config, sys\nconfig.limit = 5")
    run("%distributed rank")
    run("config.settings['lr'] = 0.7")
    assert run(f"%distributed '{state}' in sys.modules").said == {"False"}
    run(f"%%writefile uses_{state}.py\nimport {state}\ndef limit(): return {state}.limit")
    shown = run(f"%%distributed\nimport uses_{state}\nuses_{state}.limit(), config.settings")
    assert shown.said == {"(5, {'lr': 0.7})"}


def test_what_the_notebook_patches_in_a_library_is_patched_on_ranks(shared_notebook):
    run = shared_notebook.run
    run("import torch.nn as nn, textwrap, pathlib\nmodel = nn.Linear(2, 3)")
    run("%distributed model.bias.shape")
    run(
        "def count(self): return len(list(self.parameters()))\n"
        "nn.Module.count = count\ntextwrap.dedent = lambda text: 'mine'\n"
        "def patch(f):\n    cls = f.__annotations__['self']\n"
        "    setattr(cls, f.__name__, property(f))\n    return f\n"
        "@patch\ndef shout(self: pathlib.PurePath): return self.name.upper()"
    )
    asked = "model.count(), textwrap.dedent(' a'), pathlib.Path('/a/b').shout"
    assert run(f"%distributed {asked}").said == {"(2, 'mine', 'B')"}
    run("nn.Module.count = lambda self: 1")
    assert run(f"%distributed {asked}").said == {"(1, 'mine', 'B')"}


def test_what_the_notebook_assigns_in_a_library_is_so_on_ranks(shared_notebook):
    run = shared_notebook.run
    run(
        "import collections, collections.abc, functools, ssl, sys, textwrap\n"
        "from PIL import ImageFile\nImageFile.LOAD_TRUNCATED_IMAGES = True\n"
        "collections.Iterable = collections.abc.Iterable\n"
        "textwrap.dedent = functools.partial(textwrap.indent, prefix='>')\n"
        "ssl._create_default_https_context = ssl._create_unverified_context\nsys.own = 1"
    )
    asked = (
        "ImageFile.LOAD_TRUNCATED_IMAGES, collections.Iterable.__name__, textwrap.dedent('a'), "
        "ssl._create_default_https_context.__name__, hasattr(sys, 'own')"
    )
    assert run(f"%distributed {asked}").said == {
        "(True, 'Iterable', '>a', '_create_unverified_context', False)"
    }
    run("%distributed --ranks 1 setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', 'its own')")
    run("ImageFile.LOAD_TRUNCATED_IMAGES")
    shown = run("%distributed ImageFile.LOAD_TRUNCATED_IMAGES")
    assert shown.said == {"True", "'its own'"}
    run("for ImageFile.LOAD_TRUNCATED_IMAGES in (2, 3): pass")
    assert run("%distributed ImageFile.LOAD_TRUNCATED_IMAGES").said == {"3"}


def test_what_a_module_found_out_on_a_rank_stays(shared_notebook, state):
    shared_notebook.run(f"from {state} import where")
    assert shared_notebook.run("%distributed where['rank']").lines == ["[0] '0'", "[1] '1'"]


def test_what_the_notebook_made_of_an_import_is_sent(shared_notebook, state):
    run = shared_notebook.run
    run(f"from {state} import settings\nsettings = dict(settings, lr=3)")
    assert run("%distributed settings").said == {"{'lr': 3}"}
    run(f"from {state} import settings")
    assert run(f"%distributed settings is __import__('{state}').settings").said == {"True"}


def test_objects_of_libraries_are_each_ranks_own(shared_notebook):
    run = shared_notebook.run
    run(
        "from os import environ\nfrom sys import path, stdout\nfrom matplotlib import rcParams\n"
        "import os.path as files, sys, matplotlib\n"
        "class Printer:\n    out = stdout\nprinter = Printer()"
    )
    run("%%distributed\nenviron['X_OF_RANK'] = str(rank)\nrcParams['lines.linewidth'] = 7 + rank")
    shown = run(
        "%%distributed\nimport os\nprint('printed', file=stdout)\n"
        "os.environ['X_OF_RANK'], matplotlib.rcParams['lines.linewidth'], path is sys.path, "
        "stdout is sys.stdout, printer.out is stdout, files.sep"
    )
    assert shown.said == {
        "printed",
        "('0', 7.0, True, True, True, '/')",
        "('1', 8.0, True, True, True, '/')",
    }


def test_words_in_texts_that_are_code_are_names(shared_notebook):
    run = shared_notebook.run
    run(
        "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2, 3]})\n"
        "x, y, threshold, who = 1, 2, 2, 'me'\n"
        "def above(frame): return len(frame.query('a >= @threshold'))"
    )
    shown = run(
        "%%distributed\n"
        "eval('x + y'), len(df.query('a > @threshold')), above(df), '{who}'.format(**globals())"
    )
    assert shown.said == {"(3, 1, 2, 'me')"}


@pytest.mark.parametrize(
    "cell",
    [
        "expression = 'hidden_one * 2'\neval(expression)",
        "import pandas as pd\nq = 'a > @hidden_one'\npd.DataFrame({'a': [1, 2]}).query(q)",
    ],
    ids=["eval", "query"],
)
def test_a_name_that_only_the_notebook_has_says_how_to_send_it(shared_notebook, cell):
    shared_notebook.run("hidden_one = 1")
    error = shared_notebook.run(f"%%distributed\n{cell}", fails=True).error
    assert "hidden_one" in error.splitlines()[-1]
    assert "the notebook has it: `%accelnb push hidden_one` sends it" in error.splitlines()[-1]
    shared_notebook.run("%accelnb push hidden_one")
    shared_notebook.run(f"%%distributed\n{cell}")
    shared_notebook.run("%distributed globals().pop('hidden_one')")
    error = shared_notebook.run("%distributed no_such_name", fails=True).error
    assert "push" not in error
