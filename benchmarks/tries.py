"""Runs tests on mutants, one fork of a pytest that has collected everything for each; `benchmarks.mutants` says which.

`learn` runs all tests once without a mutant, and notes which came by which function and how long they took. A mutant is
then tried on those that came by its function alone: no other can notice it, but for what tests start as programs of
their own. First come those that have noticed the most so far, of these the fastest.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

PASSED_BY = Path("passed_by.json")  # in mutants/
ENOUGH_S = 3.0  # of tests beside those of a mutant's own files
ARGUMENTS = ["-q", "--tb=no", "--rootdir=.", "-p", "no:cacheprovider", "--timeout=120"]
UNASKED = "each_place"  # it reads the source, which has all mutants in it
# What only tests with a PostgreSQL notice, which is started for each mutant anew: some ten seconds of a processor.
ON_POSTGRESQL = {"vmacro.services.database_claims", "vmacro.services.databases"}

PassedBy = dict[str, dict[str, float]]  # the seconds of each test that came by a function


def learn(files: Sequence[str]) -> None:
    """Note which tests of these files came by which function, if they pass; what is known of other files stays."""
    os.chdir("mutants")  # where `vmacro` is the one with mutants, since pytest puts it first
    os.environ["MUTANT_UNDER_TEST"] = "stats"
    learner = _Learner()
    pytest.main([*ARGUMENTS, "-k", f"not {UNASKED}", *files], plugins=[learner])
    known: PassedBy = json.loads(PASSED_BY.read_text()) if PASSED_BY.exists() else {}
    for function in known.keys() | learner.passed_by.keys():
        others = {test: s for test, s in known.get(function, {}).items() if test.partition("::")[0] not in files}
        known[function] = others | learner.passed_by.get(function, {})
    PASSED_BY.write_text(json.dumps(known))


def attempt(sample: Mapping[str, Sequence[str]], results: Path) -> None:
    """Try those that were not tried yet, each with its own test files, and note `NAME EXIT SECONDS TEST` of each: 1 if
    a test failed, 0 if none did, or a signal's, below 0; a processor's seconds; and which test it was."""
    tried = {line.split()[0] for line in results.read_text().splitlines()} if results.exists() else set()
    left = {mutant: own for mutant, own in sample.items() if mutant not in tried}
    results = results.absolute()
    os.chdir("mutants")
    os.environ["MUTANT_UNDER_TEST"] = ""
    passed_by: PassedBy = json.loads(PASSED_BY.read_text())
    files = {test.partition("::")[0] for tests in passed_by.values() for test in tests}
    files |= {file for own in left.values() for file in own}
    pytest.main([*ARGUMENTS, *sorted(files)], plugins=[_Tries(left, passed_by, results)])


def function_of(mutant: str) -> str:
    """`vmacro.planning.checks.x_f` of `vmacro.planning.checks.x_f__mutmut_1`."""
    return mutant.rpartition("__mutmut_")[0]


def chosen(passing: Mapping[str, float], own: Sequence[str], noticed: Mapping[str, int]) -> list[str]:
    """Of the tests that came by a function, with the seconds of each: those of its own files, and then as many others
    as ENOUGH_S allows; first those that have `noticed` the most so far, of these the fastest."""
    order = sorted(passing, key=lambda test: (-noticed.get(test, 0), passing[test]))
    ought = [test for test in order if test.partition("::")[0] in own]
    others = [test for test in order if test.partition("::")[0] not in own]
    spent = accumulate(passing[test] for test in others)
    return ought + [test for test, until in zip(others, spent, strict=True) if until < ENOUGH_S]


def _noticed(results: Path) -> list[str]:
    """Tests that have noticed a mutant so far."""
    rows = (line.split(maxsplit=3) for line in results.read_text().splitlines()) if results.exists() else ()
    return [row[3] for row in rows if len(row) > 3]


class _Learner:
    """A plugin: with `MUTANT_UNDER_TEST=stats` mutmut notes each function that is called."""

    def __init__(self) -> None:
        self.passed_by: PassedBy = {}
        self.failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        from mutmut.state import state

        called = state()._stats
        called.clear()
        self.failed, began_s = False, time.process_time()
        outcome = yield
        took_s = round(time.process_time() - began_s, 4)
        if not self.failed:
            for function in called:
                self.passed_by.setdefault(function, {})[item.nodeid] = took_s
        return outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed


class _Tries:
    """A plugin that runs tests on mutants, instead of all tests."""

    def __init__(self, sample: Mapping[str, Sequence[str]], passed_by: PassedBy, results: Path) -> None:
        self.sample, self.passed_by, self.results = sample, passed_by, results
        self.often = Counter(_noticed(results))  # which test has noticed how many
        self.noticed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items if UNASKED not in item.nodeid}
        for mutant, own in self.sample.items():
            tests = self.tests(mutant, own, items)
            status, seconds, noticed = self.forked(mutant, tests, session)
            with self.results.open("a") as noted:
                noted.write(f"{mutant} {status} {seconds:.1f} {noticed}\n")
            self.often.update([noticed])
        return True

    def tests(self, mutant: str, own: Sequence[str], items: Mapping[str, pytest.Item]) -> list[pytest.Item]:
        """Those to try it on: all of its own files if none is known to come by, as what runs in other processes."""
        names = chosen(self.passed_by.get(function_of(mutant), {}), own, self.often)
        names = names or [name for name in items if name.partition("::")[0] in own]
        allowed = mutant.rpartition(".")[0] in ON_POSTGRESQL
        return [items[name] for name in names if name in items and (allowed or "postgres" not in name)]

    def forked(self, mutant: str, tests: Sequence[pytest.Item], session: pytest.Session) -> tuple[int, float, str]:
        """The exit code of a process that runs tests until one fails, its processor's seconds, and that test."""
        known = self.passed_by.get(function_of(mutant), {})
        longest = 60 + 10 * int(sum(known.get(item.nodeid, 1.0) for item in tests))
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (longest, longest + 1))
            os.environ["MUTANT_UNDER_TEST"] = mutant
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            self.run(tests, session)
            os.write(theirs, self.noticed.encode())
            os._exit(1 if self.noticed else 0)
        os.close(theirs)
        _, status, used = os.wait4(child, 0)
        with os.fdopen(ours) as told:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, told.read()

    def run(self, tests: Sequence[pytest.Item], session: pytest.Session) -> None:
        """Tests up to the first that fails."""
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.noticed:
                break
        session._setupstate.teardown_exact(None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.noticed:
            self.noticed = report.nodeid
