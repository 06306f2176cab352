"""Only what was signed with the notebook's key is read."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
import zmq

from accelnb.engine.wire.messages import Link

KEY, WRONG = b"k" * 32, b"w" * 32


@pytest.fixture
def ends(tmp_path):
    """Return the notebook's end, and a function that dials it with some key."""
    address = f"ipc://{tmp_path}/link.sock"
    opened = [Link.listen(address, KEY)]

    def dial(key: bytes) -> Link:
        opened.append(Link.dial(address, key, b"0.1"))
        return opened[-1]

    yield opened[0], dial
    for link in opened:
        link.close()


def received(link: Link) -> Any:
    assert link.socket.poll(5000)
    return link.receive()


def test_messages_and_buffers_travel_both_ways(ends):
    notebook, dial = ends
    rank = dial(KEY)
    big = os.urandom(1 << 20)
    sent = rank.send("execute_reply", {"status": "ok"}, parent="7", buffers=[b"a", memoryview(big)])
    message = received(notebook)
    assert (message.id, message.sender, message.kind) == (sent, b"0.1", "execute_reply")
    assert message.parent == "7"
    assert [bytes(buffer) for buffer in message.buffers] == [b"a", big]
    notebook.send("interrupt_request", {}, to=b"0.1")
    assert received(rank).kind == "interrupt_request"


def test_a_wrongly_signed_message_is_dropped_and_logged(ends, caplog):
    notebook, dial = ends
    dial(WRONG).send("execute_reply", {"status": "ok"}, buffers=[b"pickle"])
    with caplog.at_level(logging.WARNING):
        assert received(notebook) is None
    assert "not signed with this notebook's key" in caplog.text


@pytest.mark.parametrize("part", range(-1, 6))
def test_a_message_that_was_changed_on_its_way_is_dropped(ends, part):
    notebook, dial = ends
    rank = dial(KEY)
    frames = rank._session.serialize(rank._session.msg("stream", {"text": "x"}))
    if part == -1:
        frames = [b"junk", *frames[1:]]  # no delimiter at all
    else:
        frames[part % len(frames)] = frames[part % len(frames)] + b" "
    rank.socket.send_multipart(frames)
    assert received(notebook) is None


def test_a_changed_buffer_is_dropped(ends):
    notebook, dial = ends
    rank = dial(KEY)
    rank.send("execute_reply", {"status": "ok"}, buffers=[b"a pickle"])
    assert notebook.socket.poll(5000)
    _, *frames = notebook.socket.recv_multipart()  # on the way
    rank.socket.send_multipart([*frames[:-1], b"b pickle"])
    assert received(notebook) is None


def test_a_message_is_taken_once(ends):
    notebook, dial = ends
    rank = dial(KEY)
    frames = rank._session.serialize(rank._session.msg("stream", {"text": "x"}))
    rank.socket.send_multipart(frames)
    assert received(notebook).kind == "stream"
    rank.socket.send_multipart(frames)  # replayed
    assert received(notebook) is None


def test_nothing_is_there_is_not_an_error(ends):
    notebook, _ = ends
    assert notebook.socket.poll(0, zmq.POLLIN) == 0
    assert notebook.receive() is None
