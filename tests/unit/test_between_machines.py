"""What ranks on other machines need: encrypted links, values in the message, a cluster's name."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from accelnb.devices.hardware import Hardware
from accelnb.engine.serialization.pack import Received, dumps, finished_in_message
from accelnb.engine.wire.encryption import Curve
from accelnb.engine.wire.messages import Link
from accelnb.options.config import ConfigError, LaunchConfig, from_mapping, resolve

KEY = b"k" * 32
HARDWARE = Hardware({"cpu": 8})


@pytest.fixture
def ends():
    """The notebook's end over TCP, the ranks' keys, and a function that dials with some keys."""
    notebooks, ranks = Curve.pair()
    opened = [Link.listen("tcp://127.0.0.1:*", KEY, notebooks)]

    def dial(keys: Curve | None) -> Link:
        opened.append(Link.dial(opened[0].address, KEY, b"0.1", keys))
        return opened[-1]

    yield opened[0], ranks, dial
    for link in opened:
        link.close()


def test_a_rank_is_heard_and_nobody_else_not_even_with_the_key_of_messages(ends):
    notebook, ranks, dial = ends
    _, others = Curve.pair()
    stranger = Curve(others.public, others.secret, ranks.others)  # knows the notebook's key
    for keys in (None, stranger):
        dial(keys).send("stream", {"text": "let me in"})
    assert not notebook.socket.poll(500)
    dial(ranks).send("stream", {"text": "it is me"})
    assert notebook.socket.poll(5000)
    assert notebook.receive().content["text"] == "it is me"


def test_large_values_in_the_message_can_be_changed_and_are_as_they_were_when_packed(ends):
    notebook, ranks, dial = ends
    value = torch.arange(1 << 16, dtype=torch.float64)
    expected = value.clone()
    packed = dumps({"value": value, "view": value[10:]}, finish=finished_in_message)
    value.zero_()
    dial(ranks).send("execute_reply", packed.content, buffers=packed.buffers)
    assert notebook.socket.poll(5000)
    message = notebook.receive()
    received = Received(message.content, message.buffers).load()
    assert torch.equal(received["value"], expected)
    received["value"][10] = -1.0
    assert received["view"][0] == -1.0


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("local", "local"),
        ("ray", "ray"),
        ("ray://auto", "ray"),
        ("ray://head", "ray://head:10001"),
        ("ray://10.0.0.1:20001", "ray://10.0.0.1:20001"),
    ],
)
def test_a_cluster_is_named_in_these_ways(given, read):
    assert from_mapping(LaunchConfig, {"cluster": given}).cluster == read


@pytest.mark.parametrize("given", ["slurm", "ray:", "http://head:10001", "ray://head:port"])
def test_any_other_cluster_is_refused_with_what_is_possible(given):
    with pytest.raises(ConfigError, match=r"cluster=.*: must be local, ray, or the address of"):
        from_mapping(LaunchConfig, {"cluster": given})


def test_several_nodes_need_a_cluster_and_a_mesh_is_of_all_their_ranks():
    with pytest.raises(ConfigError, match=r"nodes=2: this machine is one node; name a cluster"):
        resolve(LaunchConfig(nodes=2), HARDWARE)
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    mesh = (("dp_replicate", 2), ("tp", 3))
    assert resolve(LaunchConfig(cluster="ray", nodes=2, mesh=mesh), HARDWARE).world_size == 6
    with pytest.raises(ConfigError, match=r"has 6 places for 8 ranks; .* or use --procs 3"):
        resolve(LaunchConfig(cluster="ray", nodes=2, procs=4, mesh=mesh), HARDWARE)
