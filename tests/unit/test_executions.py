"""One execution of a workflow at a time in a process, whatever rows of the journal say."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vmacro.services.executions import Executions, Suspended

PATIENCE_S = 30.0


class Work:
    """What a workflow does: waits until it may end, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun, self._may_end = 0, threading.Event()
        self.under_way = threading.Event()

    def __call__(self) -> str:
        self.begun += 1
        self.under_way.set()
        assert self._may_end.wait(PATIENCE_S)
        return f"result {self.begun}"

    def end(self) -> None:
        self._may_end.set()


def test_once_is_once_for_whoever_asks_and_whenever() -> None:
    executions, work = Executions(), Work()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(executions.once, "w", work)
        assert work.under_way.wait(PATIENCE_S)
        second = pool.submit(executions.once, "w", work)
        assert not executions.have_left(0)
        work.end()
        assert first.result(PATIENCE_S) == second.result(PATIENCE_S) == executions.once("w", work) == "result 1"
    assert work.begun == 1 and executions.once("other", work) == "result 2" and executions.have_left(0)


def test_one_by_one_begins_anew_once_the_first_has_ended() -> None:
    executions, work = Executions(), Work()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(executions.one_by_one, "w", work)
        assert work.under_way.wait(PATIENCE_S)
        second = pool.submit(executions.one_by_one, "w", work)
        assert not executions.have_left(0) and work.begun == 1
        work.end()
        assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == ("result 1", "result 2")
    assert executions.have_left(0) and executions.one_by_one("w", work) == "result 3"


@pytest.mark.parametrize("error", [KeyError("a bug"), Suspended()])
def test_what_it_raises_is_raised(error: BaseException) -> None:
    executions = Executions()

    def fail() -> None:
        raise error

    for act in (executions.once, executions.one_by_one):
        with pytest.raises(type(error)):
            act(act.__name__, fail)
    with pytest.raises(type(error)):
        executions.once("once", lambda: None)
    assert executions.one_by_one("one_by_one", lambda: "another") == "another" and executions.have_left(0)


def test_whoever_leaves_waits_for_what_goes_on() -> None:
    executions, work = Executions(), Work()
    with ThreadPoolExecutor(2) as pool:
        going_on = pool.submit(executions.one_by_one, "w", work)
        assert work.under_way.wait(PATIENCE_S)
        left = pool.submit(executions.have_left, PATIENCE_S)
        work.end()
        assert left.result(PATIENCE_S) and going_on.result(PATIENCE_S)
