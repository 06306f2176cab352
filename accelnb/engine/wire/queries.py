"""Queries that a rank answers at once between two cells, or not at all."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

QUERY, ANSWER = "query", "answer"
_numbers = itertools.count(1)


class Query:
    """A query on its way, and the answer when it has come."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self._asked = time.monotonic()
        self._answered = threading.Event()
        self._answer: dict[str, Any] = {}

    def take(self, answer: dict[str, Any]) -> None:
        """Take an answer; one to an older query is too late for whoever asked it."""
        if answer["number"] == self.number:
            self._answer = answer
            self._answered.set()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return what the rank said within `seconds` of the query, else an empty dict."""
        self._answered.wait(max(0.0, self._asked + seconds - time.monotonic()))
        return self._answer
