"""What the notebook has when a cell is sent is what the ranks see, whatever changed it."""

from __future__ import annotations

import pytest

# What the notebook makes, how it changes it in place, what ranks are asked, what they said before
# and what they say then.
KINDS = {
    "argparse.Namespace": (
        "import argparse\nargs = argparse.Namespace(lr=.1)",
        "args.lr = .5", "args.lr", "0.1", "0.5",
    ),
    "SimpleNamespace, nested": (
        "from types import SimpleNamespace\ncfg = SimpleNamespace(opt=SimpleNamespace(lr=.1))",
        "cfg.opt.lr = .5", "cfg.opt.lr", "0.1", "0.5",
    ),
    "dataclass": (
        "from dataclasses import dataclass, field\n@dataclass\nclass Options:\n    lr: float = .1\n"
        "    sizes: list = field(default_factory=lambda: [1])\noptions = Options()",
        "options.lr = .5; options.sizes.append(2)",
        "options.lr, options.sizes", "(0.1, [1])", "(0.5, [1, 2])",
    ),
    "class as a configuration": (
        "class CFG:\n    lr = 1e-3\n    class data:\n        batch = 8",
        "CFG.lr = 1e-2; CFG.data.batch = 16", "CFG.lr, CFG.data.batch", "(0.001, 8)", "(0.01, 16)",
    ),
    "class behind a function": (
        "class Rate:\n    value = 1\ndef rate(): return Rate.value",
        "Rate.value = 2", "rate()", "1", "2",
    ),
    "attribute of a base class": (
        "class Base: size = 1\nclass Small(Base): pass\nsmall = Small()",
        "Base.size = 2", "small.size", "1", "2",
    ),
    "attribute deleted from a class": (
        "class Loud: noise = 'moo'", "del Loud.noise", "hasattr(Loud, 'noise')", "True", "False",
    ),
    "method patched onto a class": (
        "class Learner:\n    def fit(self): return 'old'\nlearner = Learner()\n"
        "def fit(self): return 'new'",
        "setattr(Learner, 'fit', fit)", "learner.fit()", "'old'", "'new'",
    ),
    "method found by a decorator": (
        "class Trainer: pass\ntrainer = Trainer()\nTrainer.run = lambda self: 1\n"
        "def patch(f):\n    setattr(f.__annotations__['self'], f.__name__, f)\n    return f",
        "@patch\ndef run(self: Trainer): return 2", "trainer.run()", "1", "2",
    ),
    "function's attribute and default": (
        "def counted(x=1): return x, counted.step\ncounted.step = 1",
        "counted.step = 2; counted.__defaults__ = (5,)", "counted()", "(1, 1)", "(5, 2)",
    ),
    "what a cached function uses": (
        "import functools\nrates = {'lr': 1}\n@functools.cache\ndef rate(): return rates['lr']",
        "rates['lr'] = 2", "rate.__wrapped__()", "1", "2",
    ),
    "metaclass": (
        "class Kind(type):\n    size = 1\nclass Thing(metaclass=Kind): pass",
        "Kind.size = 2", "Thing.size", "1", "2",
    ),
    "member of an enum": (
        "import enum\nclass Phase(enum.Enum):\n    TRAIN = 1\nphase = Phase.TRAIN\nphase.lr = 1",
        "phase.lr = 2", "phase.lr, Phase.TRAIN.lr", "(1, 1)", "(2, 2)",
    ),
    "closure": (
        "def make():\n    n = 1\n    def get(): return n\n    def put(v):\n        nonlocal n\n"
        "        n = v\n    return get, put\nget, put = make()",
        "put(7)", "get()", "1", "7",
    ),
    "partial": (
        "import functools\npart = functools.partial(dict, a=1)",
        "part.keywords['a'] = 2", "part()['a']", "1", "2",
    ),
    "list of 2,000": (
        "big = list(range(2000))", "big.append(1)", "len(big)", "2000", "2001",
    ),
    "list of 2,000, inside": (
        "big = list(range(2000))", "big[1234] = -1", "big[1234]", "1234", "-1",
    ),
    "dict, tuple and set in one another": (
        "deep = {'a': ([1], {2})}", "deep['a'][1].add(3)", "deep", "{'a': ([1], {2})}",
        "{'a': ([1], {2, 3})}",
    ),
    "collections": (
        "import collections\nqueue = collections.deque([1])\ncounts = collections.Counter(a=1)",
        "queue.append(2); counts['a'] += 1", "list(queue), counts['a']", "([1], 1)", "([1, 2], 2)",
    ),
    "bytearray": ("raw = bytearray(4)", "raw[2] = 9", "raw[2]", "0", "9"),
    "array": (
        "import numpy as np\narr = np.zeros(1000)", "arr[0] = 9", "arr[0].item()", "0.0", "9.0",
    ),
    "array, one item in the middle": (
        "import numpy as np\narr = np.zeros(100_000)", "arr[54_321] = 9", "arr.sum().item()", "0.0",
        "9.0",
    ),
    "array, only moved": (
        "import numpy as np\narr = np.arange(1000)", "arr[:] = arr[::-1].copy()", "arr[0].item()",
        "0", "999",
    ),
    "array that is no block": (
        "import numpy as np\nwhole = np.zeros((50, 50))\narr = whole[:, ::2]", "whole[3, 4] = 9",
        "arr.sum().item()", "0.0", "9.0",
    ),
    "array, other names of its fields": (
        "import numpy as np\narr = np.zeros(2, dtype=[('x', 'f4')])", "arr.dtype.names = ('y',)",
        "arr.dtype.names", "('x',)", "('y',)",
    ),
    "array of objects": (
        "import numpy as np\narr = np.array([[1], [2, 3]], dtype=object)", "arr[1].append(4)",
        "arr[1]", "[2, 3]", "[2, 3, 4]",
    ),
    "frame": (
        "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]})", "df['b'] = 1", "list(df)", "['a']",
        "['a', 'b']",
    ),
    "frame, one cell": (
        "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
        "df.loc[1, 'b'] = 'z'", "df.b[1]", "'y'", "'z'",
    ),
    "tensor": ("import torch\nt = torch.zeros(3)", "t[0] = 9", "t[0].item()", "0.0", "9.0"),
    "tensor, by its data": (
        "import torch\nt = torch.zeros(3)", "t.data[0] = 9", "t[0].item()", "0.0", "9.0",
    ),
    "tensor, by an array that shares it": (
        "import torch\nt = torch.zeros(3)", "t.numpy()[0] = 9", "t[0].item()", "0.0", "9.0",
    ),
    "tensor, another part of its memory": (
        "import torch\nwhole = torch.arange(4.)\nt = whole[:2]", "t.data = whole[2:]",
        "t.tolist()", "[0.0, 1.0]", "[2.0, 3.0]",
    ),
    "large tensor": (
        "import torch\nt = torch.zeros(1 << 21)", "t[1_234_567] = 9", "t.sum().item()", "0.0",
        "9.0",
    ),
    "model, initialised anew": (
        "import torch\nmodel = torch.nn.Linear(2, 1, bias=False)\n"
        "torch.nn.init.constant_(model.weight, 1.)",
        "torch.nn.init.constant_(model.weight, 2.)", "model.weight.sum().item()", "2.0", "4.0",
    ),
    "model, by its data": (
        "import torch\nmodel = torch.nn.Linear(2, 1, bias=False)\nmodel.weight.data.fill_(1.)",
        "model.weight.data.fill_(2.)", "model.weight.sum().item()", "2.0", "4.0",
    ),
    "models that come to share their memory": (
        "import torch\na, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)\n"
        "b.load_state_dict(a.state_dict())\nmodels = [a, b]",
        "b.weight.data = a.weight.data",
        "models[0].weight.data_ptr() == models[1].weight.data_ptr()", "False", "True",
    ),
    "scripted model": (
        "import torch\nmodel = torch.jit.script(torch.nn.Dropout())", "model.eval()",
        "model.training", "True", "False",
    ),
    "model, another state": (
        "import torch\nmodel = torch.nn.Linear(2, 1, bias=False)\nmodel.weight.data.fill_(1.)",
        "model.load_state_dict({'weight': torch.full((1, 2), 3.)})", "model.weight.sum().item()",
        "2.0", "6.0",
    ),
    "model, a layer replaced": (
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2))",
        "model[0] = torch.nn.Linear(2, 5)", "model[0].out_features", "2", "5",
    ),
    "model, frozen and in another mode": (
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2))",
        "model[0].weight.requires_grad_(False); model.eval()",
        "model[0].weight.requires_grad, model[0].training", "(True, True)", "(False, False)",
    ),
    "model, what is no parameter": (
        "import torch\nmodel = torch.nn.Linear(1, 1)\nmodel.scale = torch.ones(2)",
        "model.scale[1] = 3", "model.scale.tolist()", "[1.0, 1.0]", "[1.0, 3.0]",
    ),
    "hook on a parameter's gradient": (
        "import torch\nmodel = torch.nn.Linear(1, 1)\nmodel.bias.register_hook(lambda g: g + 1)\n"
        "def slopes():\n    model.zero_grad(); model(torch.ones(1)).sum().backward()\n"
        "    return [p.grad.item() for p in model.parameters()]",
        "_ = model.weight.register_hook(lambda g: g * model.weight.numel() * 3)", "slopes()",
        "[1.0, 2.0]", "[3.0, 2.0]",
    ),
    "buffer": (
        "import torch\nnorm = torch.nn.BatchNorm1d(1)", "norm.running_mean += 1",
        "norm.running_mean.item()", "0.0", "1.0",
    ),
    "optimizer": (
        "import torch\nopt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=.1)",
        "opt.param_groups[0]['lr'] = .5", "opt.param_groups[0]['lr']", "0.1", "0.5",
    ),
    "what a data set holds": (
        "import torch\nclass Data(torch.utils.data.Dataset):\n    def __init__(self): self.n = 3\n"
        "    def __len__(self): return self.n\n    def __getitem__(self, i): return i\n"
        "loader = torch.utils.data.DataLoader(Data())",
        "loader.dataset.n = 5", "len(loader)", "3", "5",
    ),
    "itself inside itself": (
        "loop = [1]\nloop.append(loop)", "loop.insert(0, 0)", "loop[0], len(loop)", "(1, 2)",
        "(0, 3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_in_place_reaches_the_ranks(shared_notebook, kind):
    made, changed, asked, before, after = KINDS[kind]
    run = shared_notebook.run
    run(made)
    assert run(f"%distributed {asked}").said == {before}
    run(changed)
    assert run(f"%distributed {asked}").said == {after}
    assert run(asked).value == after


@pytest.mark.parametrize(
    ("made", "touched", "on_ranks", "asked"),
    [
        ("counts = [0]", "counts[:], len(counts)", "counts.append(rank)", "len(counts)"),
        (
            "import torch\nmodel = torch.nn.Linear(1, 1)",
            "model(torch.ones(1)); model.weight.sum().backward()",
            "with torch.no_grad(): model.weight.fill_(2.)",
            "2 * int(model.weight == 2.)",
        ),
        (
            "import numpy as np, pandas as pd\ndf = pd.DataFrame({'a': [1]})",
            "df.a.sum(); df.describe(); repr(df)",
            "df['b'] = 1",
            "len(df.columns)",
        ),
        (
            "class Learner:\n    step = 1\nlearner = Learner()",
            "Learner.fit = lambda self: 1; learner.fit()",
            "learner.step = 2",
            "learner.step",
        ),
        (
            "class Learner:\n    step = 1\nlearner = Learner()",
            "learner",
            "Learner.step = 2; learner",
            "Learner.step",
        ),
        (
            "import enum\nclass Part(enum.Flag):\n    HEAD = 1\n    BODY = 2\n",
            "Part.HEAD | Part.BODY, ~Part.HEAD",
            "Part.seen = 2",
            "Part.seen",
        ),
        (
            "import weakref\nclass Odd:\n    def __init__(self): self.n = 1\n"
            "    def __getstate__(self): return {'n': self.n, 'key': object()}\nodd = Odd()",
            "odd",
            "odd.n = 2",
            "odd.n",
        ),
    ],
    ids=["list", "model", "frame", "class of it", "class", "flags", "never twice the same"],
)
def test_what_ranks_made_of_a_value_stays_if_the_notebook_only_looks(
    shared_notebook, made, touched, on_ranks, asked
):
    run = shared_notebook.run
    run(made)
    run(f"%%distributed\n{on_ranks}")
    run(touched)
    assert run(f"%distributed {asked}").said == {"2"}


def test_changes_between_two_lines_of_one_cell_reach_the_ranks(shared_notebook):
    shared_notebook.run("import torch\nfrom types import SimpleNamespace\ncfg = SimpleNamespace()")
    # Also of what takes long to compare.
    shared_notebook.run("cfg.layers = [torch.nn.Linear(2, 2) for _ in range(200)]")
    output = shared_notebook.run(
        "for cfg.lr in (1, 2):\n    %distributed cfg.lr\n"
        "for cfg.lr in (3, 4):\n    get_ipython().run_cell_magic('distributed', '', 'cfg.lr')"
    )
    assert output.said == {"1", "2", "3", "4"}


def test_a_rank_keeps_what_it_bound_itself_until_the_notebook_changes_the_value(shared_notebook):
    run = shared_notebook.run
    run("cfg = {'lr': 1}")
    run("%%distributed\ncfg = {'lr': 2, 'rank': rank}")
    assert run("%distributed cfg['lr']").said == {"2"}
    run("cfg['lr'] = 3")
    output = run("%distributed cfg")
    assert output.said == {"{'lr': 3}"}
    said = "accelnb: cfg was changed in the notebook, so the ranks get it anew; what their cells"
    assert said in output.stderr
    assert run("%distributed cfg").stderr == ""


def test_a_change_in_place_of_a_trained_model_is_told(shared_notebook):
    run = shared_notebook.run
    run("import torch\nmodel = torch.nn.Linear(1, 1)")
    run("%%distributed\nwith torch.no_grad(): model.weight.fill_(5.)")
    run("torch.nn.init.constant_(model.weight, 2.)")
    output = run("%distributed model.weight.item()")
    assert output.said == {"2.0"}
    assert "accelnb: model was changed in the notebook" in output.stderr


@pytest.mark.parametrize(
    ("made", "seen", "unseen", "asked"),
    [
        ("words = [str(i) for i in range(200_000)]", "words.append('')", "words[777] = ''",
         "len(words), words[777]"),
        ("words = {i: str(i) for i in range(200_000)}", "words[-1] = ''", "words[7777] = ''",
         "len(words), words[7777]"),
        ("import numpy as np\nwords = np.zeros(3_000_000, dtype='u1')", "words[0] = 7",
         "words[7777] = 7", "words[0].item(), words[7777].item()"),
    ],
    ids=["list", "dict", "array"],
)  # fmt: skip
def test_what_is_too_large_to_compare_whole_is_said_once(
    shared_notebook, made, seen, unseen, asked
):
    run = shared_notebook.run
    run(made)
    shown = f"%distributed {asked}"
    assert run(shown).stderr == ""
    said = "cannot be compared whole before each cell: after a change in place, "
    assert f"{said}`%accelnb push words` sends it" in run(shown).stderr
    assert run(shown).stderr == ""
    run(seen)
    assert run(shown).said == {run(asked).value}
    run(unseen)
    run("%accelnb push words")
    assert run(shown).said == {run(asked).value}
