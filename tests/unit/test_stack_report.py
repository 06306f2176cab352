"""Which collective a rank waits in, by what torch's flight recorders of gloo and nccl tell."""

from __future__ import annotations

import pickle
from typing import Any

from accelnb.worker import stack_report


def entry(name: str, number: int, at: int, **told: Any) -> dict[str, Any]:
    """An entry in the form that torch 2.13 gives it; it waits unless told otherwise."""
    return {
        "record_id": at, "pg_id": 0, "process_group": ("0", "default_pg"), "profiling_name": name,
        "collective_seq_id": number, "p2p_seq_id": 0, "is_p2p": False, "time_created_ns": at,
        "state": "scheduled", "retired": False,
    } | told  # fmt: skip


def recorded(monkeypatch, *recorders: list[dict[str, Any]]) -> dict[str, Any] | None:
    dumps = [pickle.dumps({"entries": entries}) for entries in recorders]
    monkeypatch.setattr(stack_report, "_RECORDERS", [lambda dump=dump, **_: dump for dump in dumps])
    return stack_report.collective_under_way()


def test_a_collective_of_nccl_waits_until_its_kernel_is_done(monkeypatch):
    gloo = [entry("gloo:barrier", 1, at=5, retired=True)]
    done = entry("nccl:broadcast", 1, at=6, state="completed")  # it is retired some time later
    assert recorded(monkeypatch, gloo, [done]) is None
    waits = entry("nccl:all_reduce", 2, at=7, state="started")
    expected = {"name": "all_reduce", "number": 2, "group": "0"}
    assert recorded(monkeypatch, gloo, [done, waits]) == expected
    # What has waited for ten minutes is retired, and waits.
    assert recorded(monkeypatch, gloo, [done, waits | {"retired": True}]) == expected


def test_operations_that_nccl_makes_as_one_are_over_with_it(monkeypatch):
    parts = [entry("nccl:send", 3, at=at) for at in (1, 2)]  # nobody ever marks these
    together = entry("nccl:coalesced", 3, at=3, state="completed")
    assert recorded(monkeypatch, [], [*parts, together]) is None
    waits = recorded(monkeypatch, [], [*parts, together | {"state": "started"}])
    assert waits is not None
    assert waits["name"] == "coalesced"


def test_a_gpu_that_answers_nothing_any_more_hides_only_its_own_collectives(monkeypatch):
    def broken(**_: Any) -> bytes:
        raise RuntimeError("CUDA error: device-side assert triggered")

    waits = entry("gloo:all_gather", 4, at=1)
    recorded(monkeypatch, [waits])
    monkeypatch.setattr(stack_report, "_RECORDERS", [*stack_report._RECORDERS, broken])
    under_way = stack_report.collective_under_way()
    assert under_way is not None
    assert under_way["name"] == "all_gather"
