"""Classes that people define in notebooks."""

from __future__ import annotations

CLASSES: dict[str, tuple[str, str]] = {
    "cached_property": (
        """
import functools
class A:
    n = 0
    @functools.cached_property
    def twice(self): self.n += 1; return 2 * self.n
a = A()
""",
        """
a.twice, a.twice, A.twice.attrname, A().twice
""",
    ),
    "nested class": (
        """
class Outer:
    class Inner:
        def f(self): return type(self).__qualname__
def make():
    class Local:
        def f(self): pass
    return Local
inner, Local = Outer.Inner(), make()
""",
        """
Outer.Inner.__qualname__, repr(Outer.Inner), inner.f(), Outer.Inner.f.__qualname__,
Local.__qualname__, repr(Local), type(inner) is Outer.Inner
""",
    ),
    "dataclasses": (
        """
from dataclasses import dataclass, field, InitVar, KW_ONLY, replace
@dataclass(frozen=True, slots=True, order=True)
class P:
    x: int
    y: list = field(default_factory=list, compare=False)
@dataclass(kw_only=True)
class Q(object):
    a: int
    seed: InitVar[int] = 3
    def __post_init__(self, seed): self.b = self.a * seed
@dataclass
class R:
    a: int
    _: KW_ONLY
    b: int = 2
p, q = P(1), Q(a=2)
""",
        """
p, p < P(2), replace(p, x=5), q, q.b, Q(a=1, seed=5).b, R(1, b=3), P.__slots__, hash(P(1)) ==
hash(p)
""",
    ),
    "slots": (
        """
class S:
    __slots__ = ('a', '__weakref__')
    def __init__(self, a): self.a = a
class T(S):
    __slots__ = 'b'
class U:
    __slots__ = ('__private', 'a')
    def __init__(self): self.__private = 1
    def get(self): return self.__private
s, t, u = S(1), T(2), U()
t.b = 3
""",
        """
s.a, t.a, t.b, hasattr(s, '__dict__'), u.get(), hasattr(u, 'a')
""",
    ),
    "named tuples": (
        """
import collections, typing
P = collections.namedtuple('P', 'x y', defaults=[2])
class N(typing.NamedTuple):
    a: int
    b: str = 'b'
    def both(self): return (self.a, self.b)
p, n = P(1), N(1)
""",
        """
p, n, n.both(), N._fields, P._make([3, 4]), n._replace(a=2), type(n) is N
""",
    ),
    "typed dict": (
        """
import typing
class T(typing.TypedDict, total=False):
    a: int
t = T(a=1)
""",
        """
t, T.__name__, T.__total__, T.__annotations__, T(a=2), T.__optional_keys__
""",
    ),
    "enum": (
        """
import enum
class C(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = enum.auto()
    @property
    def low(self): return self.name.lower()
    @classmethod
    def _missing_(cls, value): return cls.BLUE
c = C.RED
""",
        """
c is C.RED, C['CRIMSON'] is c, C.BLUE.low, C(77), list(C), list(C.__members__), C.RED
""",
    ),
    "enum with attributes": (
        """
import enum
class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
class Unit(bytes, enum.Enum):
    def __new__(cls, value, label):
        self = bytes.__new__(cls, [value])
        self._value_, self.label = value, label
        return self
    PX = (0, 'P.X')
    VEM = (3, 'VEM')
""",
        """
Planet.EARTH.mass, Planet.MARS.value, Planet((0.6, 3.3)).name, Unit.VEM.label, Unit(3).label,
bytes(Unit.VEM), [u.value for u in Unit]
""",
    ),
    "flags and others": (
        """
import enum
class F(enum.Flag):
    R = 4
    W = 2
    X = 1
    RWX = 7
class I(enum.IntEnum):
    A = 1
class S(str, enum.Enum):
    A = 'a'
class T(enum.StrEnum):
    B = enum.auto()
animal = enum.Enum('animal', 'CAT DOG')
class G(enum.IntFlag, boundary=enum.KEEP):
    A = 1
both = F.R | F.W
""",
        """
both, F.RWX, F.R in F.RWX, ~F.R, F(3), I.A + 1, S.A == 'a', T.B, animal.CAT, animal(2).name,
list(F), F['RWX'] is F.RWX, G(9), both is (F.R | F.W)
""",
    ),
    "enum with own auto": (
        """
import enum
class C(enum.Enum):
    def _generate_next_value_(name, *_): return name * 2
    A = enum.auto()
    B = enum.nonmember(3)
    class K: pass
    @enum.property
    def p(self): return 5
""",
        """
C.A, C.A.value, C.B, C.A.p
""",
    ),
    "abstract": (
        """
import abc
class B(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
    @property
    @abc.abstractmethod
    def p(self): ...
class C(B):
    def f(self): return 'f'
    p = 3
B.register(int)
def refused():
    try: B()
    except TypeError: return True
""",
        """
C().f(), isinstance(3, B), isinstance(C(), B), sorted(B.__abstractmethods__), refused()
""",
    ),
    "metaclass": (
        """
class M(type):
    made = []
    def __new__(m, name, bases, ns, **k):
        c = super().__new__(m, name, bases, ns)
        c.k = k
        return c
    def __init__(c, name, bases, ns, **k): super().__init__(name, bases, ns)
    def __len__(c): return 7
class A(metaclass=M, tag='t'):
    x = 1
class B(A): pass
""",
        """
len(A), A.k, B.k, A.x, type(B) is M
""",
    ),
    "metaclass that records": (
        """
class M(type):
    def __new__(m, name, bases, ns):
        ns = dict(ns); ns['upper'] = sorted(n for n in ns if not n.startswith('__'))
        return super().__new__(m, name, bases, ns)
    def __call__(c, *a):
        if 'one' not in c.__dict__: c.one = super().__call__(*a)
        return c.one
class A(metaclass=M):
    x = 1
a = A()
""",
        """
A.upper, A() is a, A.one is a
""",
    ),
    "registry by __init_subclass__": (
        """
class Base:
    registry = {}
    def __init_subclass__(cls, key=None, **k):
        super().__init_subclass__(**k)
        Base.registry[key or cls.__name__] = cls
class A(Base): pass
class B(Base, key='b'): pass
""",
        """
sorted(Base.registry), Base.registry['A'] is A, Base.registry['b'] is B
""",
    ),
    "__init_subclass__ with a required argument": (
        """
class Base:
    def __init_subclass__(cls, *, key): cls.key = key
class A(Base, key='a'): pass
class B(A, key='b'):
    def f(self): return self.key
""",
        """
A.key, B().f()
""",
    ),
    "__init_subclass__ that looks at the body": (
        """
class Base:
    def __init_subclass__(cls):
        assert cls.name, 'a name'
class A(Base):
    name = 'a'
""",
        """
A.name
""",
    ),
    "__set_name__": (
        """
class Field:
    count = 0
    def __set_name__(self, owner, name): self.name = name; Field.count += 1
    def __get__(self, o, t=None): return self if o is None else o.__dict__.get(self.name, 0)
    def __set__(self, o, v): o.__dict__[self.name] = v
class A:
    x = Field()
a = A()
a.x = 4
""",
        """
a.x, A().x, A.x.name, Field.count
""",
    ),
    "__class_getitem__ and generics": (
        """
import typing
T = typing.TypeVar('T', bound=int)
P = typing.ParamSpec('P')
class Box(typing.Generic[T]):
    def __init__(self, v): self.v = v
class IntBox(Box[int]): pass
class G:
    def __class_getitem__(cls, k): return (cls.__name__, k)
alias, call = Box[int], typing.Callable[P, T]
box = Box[int](3)
""",
        """
box.v, alias, Box[int](2).v, IntBox(5).v, G[3], IntBox.__orig_bases__, T, P, call, T.__bound__,
Box.__parameters__[0] is T
""",
    ),
    "param specs": (
        """
import typing
P = typing.ParamSpec('P')
Ts = typing.TypeVarTuple('Ts')
def deco(f: typing.Callable[P, int]) -> typing.Callable[P, int]:
    def inner(*args: P.args, **kwargs: P.kwargs): return f(*args, **kwargs)
    return inner
@deco
def g(x): return x
class A(typing.Generic[typing.Unpack[Ts]]): pass
""",
        """
g(3), P, P.__name__, Ts, A.__parameters__
""",
    ),
    "new type": (
        """
import typing
UserId = typing.NewType('UserId', int)
Big = typing.NewType('Big', UserId)
def f(x: UserId) -> Big: return x
""",
        """
UserId(3), UserId.__name__, Big.__supertype__ is UserId, f.__annotations__['x'] is UserId
""",
    ),
    "protocol": (
        """
import typing
@typing.runtime_checkable
class Closable(typing.Protocol):
    def close(self) -> None: ...
class A:
    def close(self): pass
class B(Closable):
    pass
""",
        """
isinstance(A(), Closable), isinstance(3, Closable), isinstance(B(), Closable)
""",
    ),
    "descriptors": (
        """
class A:
    def __init__(self): self._x = 1
    @property
    def x(self): return self._x
    @x.setter
    def x(self, v): self._x = v * 2
    @staticmethod
    def s(v): return v + 1
    @classmethod
    def c(cls): return cls.__name__
prop, static, klass = A.__dict__['x'], A.__dict__['s'], A.__dict__['c']
a = A()
a.x = 5
""",
        """
a.x, A.s(1), A.c(), prop.fget(a), static(1), klass.__func__(A), a.s(3)
""",
    ),
    "total_ordering": (
        """
import functools
@functools.total_ordering
class V:
    def __init__(self, v): self.v = v
    def __eq__(self, o): return self.v == o.v
    def __lt__(self, o): return self.v < o.v
""",
        """
V(1) <= V(2), V(3) >= V(4), V(1) == V(1)
""",
    ),
    "super in nested classes": (
        """
class A:
    def f(self): return ['A']
class B(A):
    class C(A):
        def f(self): return super().f() + ['C']
    def f(self): return super().f() + self.C().f() + [__class__.__name__]
class D(B):
    def f(self):
        g = lambda: super(D, self).f()
        return g()
""",
        """
D().f()
""",
    ),
    "partialmethod": (
        """
import functools
class A:
    def f(self, a, b=0): return a, b
    g = functools.partialmethod(f, 1, b=2)
""",
        """
A().g()
""",
    ),
    "lru_cache on a method": (
        """
import functools
class A:
    @functools.lru_cache(maxsize=5)
    def f(self, x): return x * 2
    @staticmethod
    @functools.cache
    def g(x): return x
a = A()
a.f(1)
""",
        """
a.f(2), A.f.cache_parameters(), A.g(3)
""",
    ),
    "singledispatchmethod": (
        """
import functools
class A:
    @functools.singledispatchmethod
    def f(self, x): return 'any'
    @f.register
    def _(self, x: int): return 'int'
    @f.register(str)
    def _(self, x): return 'str'
""",
        """
A().f(1), A().f('s'), A().f(1.0)
""",
    ),
    "attributes from __getattr__": (
        """
class Proxy:
    def __init__(self, to): self.to = to
    def __getattr__(self, name): return getattr(self.to, name)
class Config(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
class Always:
    def __getattr__(self, name): return name
class Slotted:
    __slots__ = ('to',)
    def __init__(self, to): self.to = to
    def __getattr__(self, name): return getattr(self.to, name)
proxy, config, always, slotted = Proxy([3]), Config(lr=1), Always(), Slotted('a')
deep = Proxy(Proxy([1]))
""",
        """
proxy.count(3), config.lr, config, always.anything, slotted.upper(), deep.to.to, type(deep.to)
is Proxy
""",
    ),
    "class with attributes set later": (
        """
class A: pass
def f(self): return 'patched'
A.f = f
A.table = {}
A.table['a'] = A
""",
        """
A().f(), A.table['a'] is A
""",
    ),
    "make_dataclass and type()": (
        """
import dataclasses
D = dataclasses.make_dataclass('D', ['x', ('y', int, 2)])
T = type('T', (dict,), {'f': lambda self: len(self)})
d, t = D(1), T(a=1)
""",
        """
d, t, t.f(), type(d) is D
""",
    ),
}
