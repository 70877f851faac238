"""A shop's client: python -m tests.shop ADDRESS. Pages from its nginx and transactions in its PostgreSQL, each on one
connection, until a line comes on standard input. Prints `ready` once both have answered, then one JSON object: what
went wrong, "" where nothing did, and how much was done.

Run with libmptcpwrap preloaded, libpq speaks MPTCP.
"""

from __future__ import annotations

import json
import sys
import threading

import psycopg

from tests.clients import connect, get

OPTIONS = "dbname=shop user=shop connect_timeout=120 keepalives=0 options='-c statement_timeout=0'"


def pages(address: str, ready: threading.Event, stop: threading.Event) -> int:
    sock, done = connect(address, 80), 0
    while not stop.is_set():
        assert b"nginx" in get(sock, "/").lower()
        done += 1
        ready.set()
        stop.wait(0.1)
    return done


def transactions(address: str, ready: threading.Event, stop: threading.Event) -> int:
    """As pgbench's: an account is changed and a line of history written, and both must have happened, once."""
    done = 0
    with psycopg.connect(f"host={address} {OPTIONS}") as connection:
        backend = connection.info.backend_pid
        while not stop.is_set():
            with connection.transaction():
                connection.execute("update accounts set balance = balance + 1 where id = 1")
                connection.execute("insert into history (delta) values (1)")
            done += 1
            ready.set()
            stop.wait(0.02)
        row = connection.execute("select balance, (select count(*) from history) from accounts where id = 1").fetchone()
        assert row == (done, done) and connection.info.backend_pid == backend, (row, done)
    return done


def main() -> None:
    stop, results, threads, readies = threading.Event(), {}, [], []
    for work in (pages, transactions):
        ready = threading.Event()

        def run(work=work, ready=ready) -> None:  # type: ignore[no-untyped-def]
            try:
                results[work.__name__] = {"done": work(sys.argv[1], ready, stop), "trouble": ""}
            except Exception as error:
                results[work.__name__] = {"done": 0, "trouble": repr(error)}
                ready.set()

        threads.append(threading.Thread(target=run))
        readies.append(ready)
        threads[-1].start()
    for ready in readies:
        ready.wait(120)
    print("ready", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join(180)
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
