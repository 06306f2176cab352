"""Experiment trackers: one small module each, which imports its package when a run starts."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import GeneralTracker, on_main_process
from accelnb.training.tracking.registry import (
    BUILT_IN,
    built_in_class,
    filter_trackers,
    get_available_trackers,
    register_tracker_class,
)

__all__ = [
    "GeneralTracker",
    "filter_trackers",
    "get_available_trackers",
    "on_main_process",
    "register_tracker_class",
]


def __getattr__(name: str) -> Any:
    """Find the trackers' classes: ``from accelnb.training.tracking import WandBTracker``."""
    for tracker, class_name in BUILT_IN.items():
        if class_name == name:
            return built_in_class(tracker)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
