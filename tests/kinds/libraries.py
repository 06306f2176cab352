"""Objects of numpy, pandas and torch, and this process's own."""

from __future__ import annotations

LIBRARIES: dict[str, tuple[str, str]] = {
    # ---- numpy, pandas ----
    "numpy": (
        """
import numpy as np
g, r = np.random.default_rng(1), np.random.RandomState(2)
obj = np.array([{'a': 1}, None], dtype=object)
rec = np.array([(1, 2.)], dtype=[('a', int), ('b', float)])
ma = np.ma.masked_array([1, 2], [0, 1])
class Sub(np.ndarray): pass
sub = np.arange(3).view(Sub)
vec = np.vectorize(lambda x: x + 1)
poly = np.poly1d([1, 2])
uf = np.add
dates = np.array(['2020-01-01'], dtype='M8[D]')
strs = np.array(['a', 'bc'])
""",
        """
g.random(), r.rand(), obj.tolist(), rec['b'], ma.sum(), type(sub).__name__, vec([1]), poly(2),
uf is np.add, dates, strs, np.float32(2)
""",
    ),
    "pandas": (
        """
import pandas as pd
f = pd.DataFrame({'a': pd.Categorical(['x', 'y']), 'b': [1, 2]}, index=['r', 's'])
f.attrs['k'] = 1
g, roll = f.groupby('b'), f.b.rolling(2)
t = pd.Timestamp('2020', tz='UTC')
mi = pd.MultiIndex.from_product([[1], ['a']])
n = pd.Series([1, None], dtype='Int64')
iv = pd.interval_range(0, 2)
st = pd.Series(['a', None], dtype='string')
""",
        """
f.a.cat.categories.tolist(), f.loc['r', 'b'], f.attrs, g.size().tolist(), t, mi.tolist(),
n.sum(), str(iv), st.isna().tolist()
""",
    ),
    # ---- torch ----
    "torch modules of the notebook": (
        """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer('b', torch.ones(2))
        self.fc.register_forward_hook(lambda m, i, o: o + 1)
    def forward(self, x): return self.fc(x) + self.b
net = Net()
x = torch.ones(1, 2)
opt = torch.optim.AdamW(net.parameters())
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda e: .5)
crit = nn.CrossEntropyLoss()
""",
        """
net(x).tolist(), opt.param_groups[0]['params'][0] is net.fc.weight, sched.optimizer is opt,
sched.get_last_lr(), crit.reduction
""",
    ),
    "torch data": (
        """
import torch
from torch.utils.data import *
class Data(Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return torch.tensor(i)
gen = torch.Generator().manual_seed(5)
loader = DataLoader(Data(), batch_size=2, shuffle=True, generator=gen, collate_fn=lambda b: b)
sub = Subset(Data(), [1])
td = TensorDataset(torch.ones(2))
it = iter(DataLoader([1]))
del it
""",
        """
[[int(i) for i in b] for b in loader], len(sub), td[0]
""",
    ),
    "torch generator": (
        """
import torch
g = torch.Generator().manual_seed(3)
_ = torch.rand(2, generator=g)
both = [g, g]
""",
        """
torch.rand(3, generator=g).tolist(), both[0] is g, g.device.type
""",
    ),
    "torch small things": (
        """
import torch
d, t, s, f = torch.device('cpu'), torch.float32, torch.Size([1]), torch.strided
mem, fin, q = torch.channels_last, torch.finfo(torch.float32), torch.qint8
dist = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
fn = torch.nn.functional.relu
op, rel = torch.ops.aten.relu, torch.relu
g = torch.no_grad()
auto = torch.autocast('cpu')
it = torch.iinfo(torch.int8)
""",
        """
d, t, s, f, mem, fin.max, q, dist.mean, fn(torch.ones(1)), op(torch.ones(1)), rel is torch.relu,
it.max
""",
    ),
    "torchscript": (
        """
import torch
class M(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(2, 2)
    def forward(self, x): return self.l(x)
x = torch.ones(1, 2)
traced = torch.jit.trace(M(), x)
seq = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 1)))
fn = torch.jit.trace(lambda x: x + 1, x)
pair = [traced, traced]
""",
        """
traced(x).tolist(), seq(x).tolist(), fn(x).tolist(), pair[0] is traced
""",
    ),
    "torch.compile": (
        """
import torch
m = torch.nn.Linear(2, 2)
c = torch.compile(m, backend='eager')
x = torch.ones(1, 2)
def plain(x): return x * 2
f = torch.compile(plain, backend='eager')
""",
        """
c(x).tolist(), type(c).__name__, c._orig_mod is m, f(x).tolist(), list(c.state_dict())
""",
    ),
    "torch.compile, used": (
        """
import torch
m = torch.nn.Linear(2, 2)
c = torch.compile(m, backend='eager')
x = torch.ones(1, 2)
_ = c(x)
n = torch.nn.Linear(2, 2)
n.compile(backend='eager')
_ = n(x)
""",
        """
c(x).tolist(), n(x).tolist()
""",
    ),
    "torch.fx": (
        """
import torch, torch.fx
class M(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(2, 2)
    def forward(self, x): return self.l(x).relu()
g = torch.fx.symbolic_trace(M())
x = torch.ones(1, 2)
""",
        """
g(x).tolist(), len(g.graph.nodes), list(g.state_dict())
""",
    ),
    "torch functions": (
        """
import torch
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * 2
    @staticmethod
    def backward(ctx, g): return g * 2
x = torch.ones(1, requires_grad=True)
leaf = torch.nn.Parameter(torch.ones(1))
grad = torch.func.grad(lambda x: (x * x).sum())
""",
        """
Double.apply(x).item(), leaf, grad(torch.ones(2))
""",
    ),
    # ---- this process's own ----
    "streams": (
        """
import sys, logging, functools
out, err, log = sys.stdout, sys.stderr, logging.StreamHandler(sys.stdout)
orig = sys.__stdout__
printer = functools.partial(print, file=sys.stdout)
class Tee:
    def __init__(self): self.out = sys.stderr
    def write(self, t): self.out.write(t)
tee = Tee()
""",
        """
out is sys.stdout, err is sys.stderr, log.stream is sys.stdout, orig is sys.__stdout__,
printer.keywords['file'] is sys.stdout, tee.out is sys.stderr
""",
    ),
    "rich console": (
        """
import rich.console, rich.progress, rich.table, sys
c = rich.console.Console()
to = rich.console.Console(stderr=True, width=50)
fixed = rich.console.Console(file=sys.stdout)
table = rich.table.Table('a')
progress = rich.progress.Progress(console=c)
""",
        """
c.file is sys.stdout, to.file is sys.stderr, to.width, fixed.file is sys.stdout,
c.capture().__class__.__name__, progress.console is c
""",
    ),
    "tqdm": (
        """
import functools, sys
from tqdm import tqdm
bar = functools.partial(tqdm, file=sys.stdout, disable=True)
bar2 = functools.partial(tqdm, disable=True)
""",
        """
list(bar([1])), list(bar2([2])), bar.keywords['file'] is sys.stdout
""",
    ),
    "pools and others": (
        """
import concurrent.futures as cf, string, secrets, hashlib, types, typing
hint = typing.Optional[typing.Union[int, typing.Literal['a']]]
ann = typing.Annotated[int, 'x']
fwd = typing.ForwardRef('A')
class Mixin:
    def __repr__(self): return 'mixin'
mx = Mixin()
big = 10 ** 50
fs = frozenset([1])
nan = complex(1, 2)
by = bytearray(b'a')
""",
        """
hint, ann, fwd, mx, big, fs, nan, by
""",
    ),
    "attrs and pydantic": (
        """
import attrs, pydantic
@attrs.define
class A:
    x: int = 1
    y: list = attrs.Factory(list)
@attrs.frozen
class F:
    x: int
class M(pydantic.BaseModel):
    x: int = 1
    y: str
    @pydantic.field_validator('y')
    @classmethod
    def up(cls, v): return v.upper()
a, f, m = A(), F(2), M(y='b')
""",
        """
a, f, m, A(3), M(y='c', x='4'), m.model_dump(), type(m) is M
""",
    ),
}
