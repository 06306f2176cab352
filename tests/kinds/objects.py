"""Functions, errors, locks and other objects of Python's own library."""

from __future__ import annotations

OBJECTS: dict[str, tuple[str, str]] = {
    # ---- functions ----
    "singledispatch": (
        """
import functools
class Mine: pass
@functools.singledispatch
def show(x): return 'any'
@show.register
def _(x: int): return 'int'
@show.register(list)
def of_list(x): return [show(i) for i in x]
@show.register(Mine)
def _(x): return 'mine'
""",
        """
show(1.0), show(True), show([1, 'a', Mine()]), show.__name__, show.dispatch(int) is
show.registry[int], sorted(t.__name__ for t in show.registry)
""",
    ),
    "singledispatch registered later": (
        """
import functools
@functools.singledispatch
def show(x): return 'any'
show.register(int, lambda x: 'int')
def more():
    show.register(str, lambda x: 'str')
    return show('a'), show(1), show(1.0)
""",
        """
more()
""",
    ),
    "function with attributes": (
        """
def f(x, *, y=[1]): return x
f.calls, f.self = 3, f
f.__doc__ = 'said'
""",
        """
f.calls, f.self is f, f.__doc__, f.__kwdefaults__, f.__qualname__, f.__module__
""",
    ),
    "cells assigned later": (
        """
def make():
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    return even
def counter():
    n = 0
    def step():
        nonlocal n
        n += 1
        return n
    return step, lambda: n
def unset():
    def f(): return late
    if 0: late = 1
    return f
even, unset_f = make(), unset()
step, read = counter()
step()
""",
        """
even(10), read(), step() - read(), unset_f.__closure__ is not None
""",
    ),
    "async and generators": (
        """
import asyncio
async def a(): return 3
def g():
    yield from range(3)
async def ag():
    yield 1
async def all_of(): return [x async for x in ag()], await a()
""",
        """
asyncio.run(all_of()), list(g())
""",
    ),
    "partials": (
        """
import functools, operator, contextlib
def f(a, b): return a - b
p = functools.partial(f, b=1)
pp = functools.partial(p, 5)
item, attr = operator.itemgetter(1), operator.attrgetter('real')
call = operator.methodcaller('upper')
@contextlib.contextmanager
def c(): yield 4
def used():
    with c() as v: return v
""",
        """
p(3), pp(), item([1, 2]), attr(3), call('a'), used()
""",
    ),
    "wrapped": (
        """
import functools
def deco(f):
    @functools.wraps(f)
    def inner(*a): return f(*a) + 1
    return inner
@deco
def g(x):
    'doc'
    return x
""",
        """
g(1), g.__name__, g.__doc__, g.__wrapped__(1)
""",
    ),
    "methods and bound ones": (
        """
class A:
    def f(self): return 3
    @classmethod
    def c(cls): return cls.__name__
a = A()
bound, unbound, klass, append = a.f, A.f, A.c, [].append
from functools import partial
strip, fromkeys = str.strip, dict.fromkeys
""",
        """
bound(), unbound(a), klass(), bound.__self__ is a, append(1), strip(' a'), fromkeys('a')
""",
    ),
    "default factories": (
        """
import collections
d = collections.defaultdict(lambda: [0])
d['a'].append(1)
dd = collections.defaultdict(lambda: collections.defaultdict(int))
""",
        """
d['a'], d['b'], dd['a']['b'], collections.Counter('aab'), list(d)
""",
    ),
    "overloads and annotations": (
        """
import typing
@typing.overload
def f(x: int) -> int: ...
@typing.overload
def f(x: str) -> str: ...
def f(x): return x
class Node:
    def child(self) -> 'Node': return Node()
""",
        """
f(3), typing.get_type_hints(Node.child)['return'] is Node
""",
    ),
    # ---- errors ----
    "exceptions": (
        """
class Own(Exception):
    def __init__(self, code, text):
        super().__init__(f'{code}: {text}')
        self.code = code
class KwOnly(ValueError):
    def __init__(self, *, name): self.name = name
class Plain(Exception):
    pass
class Slotted(OSError):
    def __init__(self, where): super().__init__(2, 'gone'); self.where = where
own, kw, slotted = Own(3, 'a'), KwOnly(name='n'), Slotted('x')
plain = Plain('p')
plain.extra = 1
""",
        """
own.args, own.code, str(own), kw.name, kw.args, slotted.where, slotted.errno, plain.extra,
Own(4, 'b').code, type(own) is Own
""",
    ),
    "raised exceptions": (
        """
class Own(Exception):
    def __init__(self, a, b): super().__init__(a); self.b = b
def fails():
    try:
        try: {}['a']
        except KeyError as e: raise Own(1, 2) from e
    except Own as e:
        e.add_note('a note')
        return e
def in_context():
    try:
        try: 1 / 0
        except ZeroDivisionError: int('x')
    except ValueError as e: return e
own, other = fails(), in_context()
group = ExceptionGroup('g', [own, ValueError(1)])
""",
        """
own.b, own.__notes__, own.__cause__, own.__suppress_context__, type(own.__cause__),
other.__context__, group.exceptions[0] is own, group.message
""",
    ),
    # ---- threads ----
    "locks": (
        """
import threading
class Guarded:
    lock = threading.Lock()
    def __init__(self): self.own, self.n = threading.RLock(), 1
    def step(self):
        with self.lock, self.own: self.n += 1; return self.n
g, lock, same = Guarded(), threading.Lock(), None
same = [lock, lock]
condition, semaphore = threading.Condition(), threading.Semaphore(3)
bounded, barrier = threading.BoundedSemaphore(2), threading.Barrier(2, timeout=4)
event, unset = threading.Event(), threading.Event()
event.set()
shared = threading.Condition(lock)
""",
        """
g.step(), lock.locked(), same[0] is lock, condition.acquire(False), bounded._value,
barrier.parties, event.is_set(), unset.is_set(), shared._lock is lock,
semaphore.acquire(blocking=False), type(g.own).__name__
""",
    ),
    "queues": (
        """
import queue
q, s = queue.Queue(3), queue.SimpleQueue()
q.put(1)
q.put([2])
p = queue.PriorityQueue()
p.put(2)
p.put(1)
l = queue.LifoQueue()
l.put(1)
l.put(2)
""",
        """
q.maxsize, q.qsize(), q.queue[0], p.queue[0], l.queue, s.empty(), type(p).__name__
""",
    ),
    "thread local": (
        """
import threading
local = threading.local()
local.x = 3
class L(threading.local):
    def __init__(self, n): self.n = n
mine = L(4)
""",
        """
local.x, mine.n, type(mine) is L
""",
    ),
    "context variables": (
        """
import contextvars
v = contextvars.ContextVar('v', default=3)
w = contextvars.ContextVar('w')
w.set('now')
unset = contextvars.ContextVar('unset')
both = [v, v]
""",
        """
v.get(), w.get(), v.name, both[0] is v, unset.get('none')
""",
    ),
    # ---- references ----
    "weak references": (
        """
import weakref
class A:
    def f(self): return 3
a = A()
ref, proxy = weakref.ref(a), weakref.proxy(a)
values = weakref.WeakValueDictionary(a=a)
keys = weakref.WeakKeyDictionary({a: 1})
set_ = weakref.WeakSet([a])
method = weakref.WeakMethod(a.f)
gone = weakref.ref(A())
""",
        """
ref() is a, proxy.f(), values['a'] is a, keys[a], a in set_, method()(), gone()
""",
    ),
    "iterators": (
        """
import itertools
c, r = itertools.count(3), iter([1, 2, 3])
next(c); next(r)
ch, z = itertools.chain([1], [2]), zip([1], [2])
cy = itertools.cycle('ab')
m, e = map(str, [1]), enumerate('a')
rev, isl = reversed([1, 2]), itertools.islice([1, 2, 3], 2)
k, s = iter({'a': 1}), iter({3})
""",
        """
repr(c), list(itertools.islice(cy, 3)) and 'ab', type(r), type(m)
""",
    ),
    "views and proxies": (
        """
import types, re, collections
d = {'a': 1}
proxy = types.MappingProxyType(d)
keys, values = d.keys(), d.values()
match = re.match('(a)(?P<b>b)', 'abc')
pattern = re.compile('a+', re.I)
view = memoryview(b'abc')
ns = types.SimpleNamespace(a=[1])
m = types.ModuleType('made')
m.x = 1
chain = collections.ChainMap({'a': 1}, d)
members = slice(1, 2), ..., NotImplemented, range(3)
code = compile('1 + 1', 'x', 'eval')
generic = list[int] | None
""",
        """
proxy['a'], list(keys), list(values), match.group('b'), match.span(), match.string,
pattern.flags, bytes(view), ns, m.x, chain['a'], members, eval(code), generic,
match.groupdict(), match.re is not None
""",
    ),
    # ---- logging, files, time ----
    "logging": (
        """
import logging
log = logging.getLogger('mine')
fmt = logging.Formatter('%(message)s')
handler = logging.StreamHandler()
handler.setFormatter(fmt)
handler.setLevel(30)
adapter = logging.LoggerAdapter(log, {'a': 1})
null = logging.NullHandler()
class F(logging.Filter):
    def filter(self, r): return True
handler.addFilter(F())
root = logging.getLogger()
""",
        """
log is logging.getLogger('mine'), handler.level, handler.formatter._fmt, adapter.extra,
handler.format(logging.LogRecord('a', 20, 'f', 1, 'said %s', ('x',), None)),
handler.lock.acquire(), root is logging.getLogger()
""",
    ),
    "time, paths, numbers": (
        """
import datetime, zoneinfo, decimal, fractions, pathlib, uuid, ipaddress, random, argparse
z = zoneinfo.ZoneInfo('UTC')
d = datetime.datetime(2024, 1, 2, tzinfo=z)
n = decimal.Decimal('1.50')
f = fractions.Fraction(1, 3)
p = pathlib.Path('/tmp') / 'a'
u = uuid.UUID(int=5)
i = ipaddress.ip_address('::1')
r = random.Random(3)
a = argparse.Namespace(lr=1)
parser = argparse.ArgumentParser(prog='x')
_ = parser.add_argument('--n', type=int, default=2)
ctx = decimal.Context(prec=3)
""",
        """
d, n, f, p, u, i, r.random(), a, parser.parse_args([]), ctx.prec, d.tzinfo is z
""",
    ),
    "files in memory": (
        """
import io, array, struct, string, textwrap, configparser
b, s = io.BytesIO(b'ab'), io.StringIO('x')
_ = b.read(1)
arr = array.array('d', [1.5])
st = struct.Struct('<I')
t = string.Template('$a')
c = configparser.ConfigParser()
c.read_dict({'s': {'a': '1'}})
""",
        """
b.read(), s.read(), arr, st.size, t.substitute(a=1), c['s']['a']
""",
    ),
    "user containers": (
        """
import collections
class Batch(collections.UserDict):
    def __init__(self, data=None, n=1):
        super().__init__(data); self._n = n
    def __getattr__(self, item):
        try: return self.data[item]
        except KeyError: raise AttributeError
class L(list):
    def __init__(self, a, b): super().__init__([a, b]); self.b = b
class D(dict):
    def __init__(self, **k): super().__init__(k); self.__dict__ = self
class S(str):
    def __new__(cls, a, b):
        s = super().__new__(cls, a); s.b = b
        return s
    def __getnewargs__(self): return str(self), self.b
class O(collections.OrderedDict): pass
class Dq(collections.deque): pass
batch, l, d, s, dq = Batch({'ids': [1]}), L(1, 2), D(lr=3), S('a', 2), Dq([1], maxlen=2)
""",
        """
d.__dict__ is d, batch.ids, batch['ids'], batch._n, l, l.b, d.lr, d['lr'], s, s.b, dq, O(a=1)
""",
    ),
}
