"""A signal is heeded at once, whichever thread the kernel gives it to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_enumeration import stage
from vmacro.drivers.fake import Effect
from vmacro.drivers.system import side_by_side
from vmacro.model.moves import Ending
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World
from vmacro.services import journal, waiting, workflows

PATIENCE_S = 20.0


@pytest.fixture
def heeded() -> Iterator[threading.Event]:
    """Set by SIGINT."""
    seen = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: seen.set())
    yield seen
    signal.signal(signal.SIGINT, before)


def taken_by_this_thread(heeded: threading.Event) -> bool:
    """As libvirt's client does with what comes while it changes its mask."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    return heeded.wait(PATIENCE_S)


def test_while_the_main_thread_waits_for_another(heeded: threading.Event) -> None:
    assert waiting.call(lambda: taken_by_this_thread(heeded))


def test_while_the_main_thread_waits_for_some_time(heeded: threading.Event) -> None:
    future: Future[bool] = Future()
    threading.Thread(target=lambda: future.set_result(taken_by_this_thread(heeded)), daemon=True).start()
    assert waiting.until_done(future, 2 * PATIENCE_S).result(0)


def test_while_the_main_thread_asks_hosts(heeded: threading.Event) -> None:
    assert side_by_side([lambda: taken_by_this_thread(heeded)], 2 * PATIENCE_S) == [True]


def test_what_is_asked_for_each_comes_in_order_and_who_is_interrupted_waits_for_none() -> None:
    assert waiting.each([lambda n=n: n for n in range(9)], 2) == [*range(9)]  # type: ignore[misc]
    begun: list[int] = []

    def hangs() -> None:
        begun.append(1)
        threading.Event().wait(PATIENCE_S)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waiting.each([interrupted, hangs, hangs, hangs], 2)
    assert len(begun) < 3


def test_what_goes_on_is_not_waited_for_any_longer() -> None:
    assert not waiting.until_done(Future[None](), 0.01).done()


def test_while_a_move_is_under_way(heeded: threading.Event, tmp_path: Path) -> None:
    found = stage(SEAMLESS)
    asked: list[bool] = []
    plan = replace(found.plan, move_id="web-waiting")

    def before(_effect: Effect) -> None:
        if not asked:
            asked.append(taken_by_this_thread(heeded))

    found.fake.before = before
    with journal.open_journal(f"sqlite:///{tmp_path}/journal.sqlite", _no_other_world, "test-1"):
        outcome = workflows.run(plan, found.fake.world)
    assert asked == [True] and outcome.ending == Ending.MOVED


def _no_other_world() -> AbstractContextManager[World]:
    raise AssertionError("nobody begins a workflow but the test")


def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        waiting.call(lambda: 1 // 0)
