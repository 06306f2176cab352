"""Questions that a rank answers at once between two cells, or not at all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

QUESTION, ANSWER = "question", "answer"
_numbers = itertools.count(1)


class Question:
    """A question on its way, and the answer when it has come."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self._asked = time.monotonic()
        self._answered = threading.Event()
        self._answer: dict[str, Any] = {}

    def take(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self._answered.set()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return what the rank said within `seconds` of the question, else an empty dict."""
        self._answered.wait(max(0.0, self._asked + seconds - time.monotonic()))
        return self._answer


class Questions:
    """The newest question; an answer to an older one is too late for whoever asked it."""

    def __init__(self) -> None:
        self._newest: Question | None = None

    def ask(self, send: Callable[[dict[str, Any]], object], content: dict[str, Any]) -> Question:
        """Give `content` the number of a new question and `send` it."""
        question = self._newest = Question()
        send(content | {"number": question.number})
        return question

    def take(self, answer: dict[str, Any]) -> None:
        question = self._newest
        if question is not None and question.number == answer["number"]:
            question.take(answer)
