"""Executions of workflows in this process: none beside another of the same id, whatever rows of the journal say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any


class Suspended(BaseException):
    """A workflow leaves before its end, as its process does: the next one goes on with it. It is no Exception, since
    DBOS writes those down as the end of a workflow."""


class Executions:
    """Of workflows, by id. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, Future[Any]] = {}

    def once(self, workflow_id: str, act: Callable[[], Any]) -> Any:
        """What `act` returns or raises. Where the workflow is or was executed, that is waited for, and its result is
        this one's."""
        first, mine = self._begin(workflow_id)
        return self._executed(mine, act) if first is mine else first.result()

    def one_by_one(self, workflow_id: str, act: Callable[[], Any]) -> Any:
        """What `act` returns or raises; first the execution that there is comes to its end."""
        while True:
            first, mine = self._begin(workflow_id)
            if first is mine:
                try:
                    return self._executed(mine, act)
                finally:
                    with self._lock:
                        del self._of[workflow_id]
            wait((first,))

    def have_left(self, patience_s: float) -> bool:
        """Whether none goes on any more, within this time."""
        with self._lock:
            going_on = list(self._of.values())
        return not wait(going_on, patience_s).not_done

    def _begin(self, workflow_id: str) -> tuple[Future[Any], Future[Any]]:
        mine: Future[Any] = Future()
        with self._lock:
            return self._of.setdefault(workflow_id, mine), mine

    @staticmethod
    def _executed(mine: Future[Any], act: Callable[[], Any]) -> Any:
        try:
            mine.set_result(act())
        except BaseException as error:
            mine.set_exception(error)
        return mine.result()
