"""Kinds of objects that people have in notebooks arrive on a rank as they were."""

from __future__ import annotations

import multiprocessing
import sys
import types

import pytest
from kinds import KINDS

from accelnb.engine.serialization.pack import Pack, Received, finished

LIMIT = 60.0  # s


def notebook():
    """Return a new `__main__`, as a kernel has it."""
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    return module.__dict__


def other_process(connection):
    namespace = notebook()
    expression = connection.recv()
    try:
        for content, buffers in connection.recv():
            Received(content, buffers).unpack(namespace)
        connection.send(repr(eval(f"({expression})", namespace)))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


@pytest.fixture
def main(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return notebook()


@pytest.fixture
def elsewhere(main):
    """Ask another process, which has got these packs, a question."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=other_process, args=(there,), daemon=True)
    process.start()  # it knows nothing of what the notebook makes from here on
    there.close()

    def ask(question, *packs):
        packed = finished(packs)
        here.send(question)
        here.send([(p.content, [bytes(buffer) for buffer in p.buffers]) for p in packed])
        assert here.poll(LIMIT)
        answer = here.recv()
        packed[0].close()
        return answer

    yield ask
    process.kill()
    process.join(LIMIT)


def pack_of(main, names, classes=()):
    pack = Pack(main)
    pack.add({name: main[name] for name in names}, (), classes)
    return pack


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_arrives_as_it_was(main, elsewhere, kind):
    made, asked = KINDS[kind]
    exec(compile(made, "<cell>", "exec"), main)
    pack = pack_of(main, [name for name in main if not name.startswith("__")])
    assert elsewhere(asked, pack) == repr(eval(f"({asked})", main))


def test_classes_alone_are_brought_up_to_date_and_bind_no_name(main, elsewhere):
    exec("class A:\n    old = 1\n    def f(self): return 1\na = A()", main)
    before = pack_of(main, ["a"])
    exec("A.f = lambda self: 2\nA.new = 3\ndel A.old", main)
    after = pack_of(main, [], [main["A"]])
    question = "a.f(), a.new, hasattr(a, 'old'), 'A' in globals()"
    assert elsewhere(question, before, after) == "(2, 3, False, False)"
