"""Where the time of a run went: a table at its end, one line for each lab and one for all unit tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.labs import lab_of


@dataclass
class Phase:
    """What ran in one lab. All times are in seconds; `begin` and `end` are wall clock."""

    begin: float = float("inf")
    end: float = 0.0
    tests: int = 0
    spent: dict[str, float] = field(default_factory=lambda: {"setup": 0.0, "call": 0.0, "teardown": 0.0})

    def add(self, report: pytest.TestReport) -> None:
        self.begin, self.end = min(self.begin, report.start), max(self.end, report.stop)
        # pytest-xdist knows no phase of a test whose worker died
        self.spent[report.when if report.when in self.spent else "call"] += report.duration
        self.tests += report.when == "call"


class Timing:
    """A pytest plugin. With pytest-xdist the controller sees the reports of all workers."""

    def __init__(self) -> None:
        self._phases: dict[str, Phase] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._phases.setdefault(lab_of(report.nodeid), Phase()).add(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._phases:
            return
        first = min(phase.begin for phase in self._phases.values())
        terminalreporter.section("times by phase, in seconds")
        terminalreporter.write_line(f"{'':10} {'from':>7} {'to':>7} {'set-up':>7} {'tests':>7} {'teardown':>8}  number")
        for name, phase in sorted(self._phases.items(), key=lambda item: item[1].begin):
            setup, call, teardown = phase.spent.values()
            times = f"{phase.begin - first:7.0f} {phase.end - first:7.0f} {setup:7.0f} {call:7.0f} {teardown:8.0f}"
            terminalreporter.write_line(f"{name:10} {times}  {phase.tests}")
