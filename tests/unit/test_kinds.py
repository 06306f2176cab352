"""Kinds of objects that people have in notebooks arrive on a rank as they were."""

from __future__ import annotations

import multiprocessing
import sys
import types

import pytest
from kinds import KINDS

from accelnb.engine.tensors import Pack, Received, finished

LIMIT = 60.0  # s


def notebook():
    """Return a new `__main__`, as a kernel has it."""
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    return module.__dict__


def other_process(connection):
    namespace = notebook()
    expression = connection.recv()
    try:
        content, buffers = connection.recv()
        Received(content, buffers).unpack(namespace)
        connection.send(repr(eval(f"({expression})", namespace)))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


@pytest.fixture
def main(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return notebook()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_arrives_as_it_was(main, kind):
    made, asked = KINDS[kind]
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=other_process, args=(there,), daemon=True)
    process.start()  # it knows nothing of what the notebook makes from here on
    there.close()
    try:
        exec(compile(made, "<cell>", "exec"), main)
        pack = Pack(main)
        names = {n: v for n, v in main.items() if not n.startswith("__")}
        pack.add(names)
        packed = finished([pack])[0]
        here.send(asked)
        here.send((packed.content, [bytes(b) for b in packed.buffers]))
        assert here.poll(LIMIT)
        answer = here.recv()
        assert answer == repr(eval(f"({asked})", main))
        packed.close()
    finally:
        process.kill()
        process.join(LIMIT)
