"""A rank's output pipes, and what is known of them when the rank was killed."""

from __future__ import annotations

import os
import threading

import pytest

from accelnb.engine.process.output_pipes import Rest, open_outputs
from accelnb.worker.output import PipeReader, PipeWriter


@pytest.fixture
def stdout():
    outputs, writes = open_outputs()
    yield outputs[0], writes[0]
    for output in outputs:
        output.close()
    for fd in writes:
        os.close(fd)


def test_lines_go_at_once_and_the_rest_when_the_writer_is_idle(stdout):
    output, write = stdout
    reader, writer = PipeReader(output), PipeWriter(write, "<stdout>")
    writer.write("a line\nhalf")
    assert reader.read()[0] == "a line\nhalf"
    writer.write(" more")
    assert reader.read() == ("", 0)
    writer.flush_if_idle()
    assert reader.read()[0] == " more"


def test_characters_that_are_cut_in_two_are_put_together(stdout):
    output, write = stdout
    reader = PipeReader(output)
    for byte in "ü✓".encode():
        os.write(write, bytes([byte]))
        reader.read()
    os.write(write, b"\xff!\n")
    assert reader.read()[0].endswith("\ufffd!\n")


def test_lines_of_threads_are_not_torn(stdout):
    output, write = stdout
    reader, writer = PipeReader(output), PipeWriter(write, "<stdout>")

    def work(letter: str) -> None:
        for _ in range(300):
            print(letter * 50, file=writer)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    text = ""
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not text.endswith("\n"):
        text += reader.read()[0]
    while more := reader.read()[0]:
        text += more
    assert sorted(text.split()) == sorted(letter * 50 for letter in "abcd" for _ in range(300))


@pytest.mark.parametrize("written", [5, 300_000, 1_500_000])
def test_what_a_killed_rank_had_read_but_not_sent_is_known(stdout, written):
    output, write = stdout
    reader = PipeReader(output)
    text = "".join(chr(97 + i % 26) for i in range(written))
    for at in range(0, written, 50_000):
        os.write(write, text[at : at + 50_000].encode())
        assert reader.read()[0] == text[at : at + 50_000]
    os.write(write, b"unread")
    rest = Rest.from_json(Rest.of(output).to_json())
    assert rest.after(received=written) == "unread"
    lost = min(written, 1000)
    assert rest.after(received=written - lost) == text[written - lost :] + "unread"
    assert rest.after(received=0) == text[-(1 << 20) :] + "unread"
