"""Files of others, and their renewal: from a real server of our own, with all that a server may do."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.contract import certifies
from vmacro.drivers import feeds
from vmacro.drivers.feeds import Files
from vmacro.fleet.feeds import Feed, FeedText, Format
from vmacro.fleet.recorded import SignalError

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Answer = text("said")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


def text(said: str, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(said.encode())

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def no_rubbish(found: FeedText) -> None:
    if "rubbish" in found.text:
        raise SignalError("signal power: heading is not one of ours")


def read(feed: Feed, format: Format = Format.CSV, deadline_s: float = 5.0) -> tuple[str, str]:
    found = Files(True, deadline_s).read("power", feed, format, NOON, NOON + timedelta(hours=24), no_rubbish)
    return found.text, found.trouble


@certifies("Feeds.read")
def test_an_old_file_is_fetched_and_a_new_one_is_not(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    feed = Feed(str(path), f"{server.url}/p?from={{begin}}&to={{end}}")
    assert read(feed) == ("said", "")
    assert server.asked[0][0] == "/p?from=2026-06-01T12%3A00Z&to=2026-06-02T12%3A00Z"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.answer = text("newer")
    assert read(feed) == ("said", "")
    os.utime(path, (time.time() - 3700,) * 2)
    assert read(feed) == ("newer", "")
    assert len(server.asked) == 2


def test_what_cannot_be_fetched_stays_and_grows_older(server: Server, tmp_path: Path) -> None:
    path, old = tmp_path / "p.csv", time.time() - 7200
    path.write_text("old")
    os.utime(path, (old, old))
    server.answer = text("sorry", 503)
    found = Files(True).read("power", Feed(str(path), server.url), Format.CSV, NOON, NOON, no_rubbish)
    assert (found.text, found.trouble) == ("old", "signal power: 127.0.0.1 answers 503 Service Unavailable")
    assert found.told.timestamp() == pytest.approx(old)


def test_an_answer_that_says_nothing_takes_no_good_files_place(server: Server, tmp_path: Path) -> None:
    path, old = tmp_path / "p.csv", time.time() - 7200
    path.write_text("good")
    os.utime(path, (old, old))
    for _ in range(2):
        server.answer = text("<html>rubbish</html>")
        assert read(Feed(str(path), server.url)) == ("good", "signal power: heading is not one of ours")
    server.answer = text("better")
    assert read(Feed(str(path), server.url)) == ("better", "")
    path.unlink()
    server.answer = text("rubbish")
    with pytest.raises(SignalError, match="heading is not one of ours"):
        read(Feed(str(path), server.url))


def test_nobody_is_asked_in_a_simulation(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="cannot be read: No such file"):
        Files(False).read("power", Feed(str(tmp_path / "p"), server.url), Format.CSV, NOON, NOON, no_rubbish)
    assert server.asked == []


def slowly(handler: BaseHTTPRequestHandler, parts: Iterable[bytes]) -> None:
    with suppress(OSError):  # who asked has gone
        for part in parts:
            handler.wfile.write(part)
            time.sleep(0.05)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    slowly(handler, [b"x"] * 100)


def silent(_: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    slowly(handler, [b"HTTP/1.1 200 OK\r\n", *(f"X-{n}: y\r\n".encode() for n in range(60))])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (text("", 302, {"Location": "http://127.0.0.1:1/"}), "answers 302"),
        (silent, "has not answered within 0.5 s"),
        (drip, "has not answered within 0.5 s|cannot be asked"),
        (drip_headers, "has not answered within 0.5 s"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "cannot be asked"),
        (lambda _: None, "cannot be asked"),
        (text("half", headers={"Content-Length": "8"}), "its answer is not whole"),
    ],
)
def test_a_server_that_does_not_answer_well(server: Server, tmp_path: Path, answer: Answer, told: str) -> None:
    server.answer = answer
    began = time.monotonic()
    with pytest.raises(SignalError, match=told):
        read(Feed(str(tmp_path / "p"), server.url), deadline_s=0.5)
    assert time.monotonic() - began < 2.5
    assert not (tmp_path / "p").exists()


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """Where nobody answers: a socket whose queue is full, so that the kernel drops who would connect."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listening.getsockname())
        yield listening.getsockname()


def test_many_addresses_have_one_deadline(
    server: Server, tmp_path: Path, full: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the name says how many there are. One that answers after all others has no time of its own, either,
    to drip its headers in."""
    found = socket.getaddrinfo(*full, type=socket.SOCK_STREAM) * 3
    found += socket.getaddrinfo("127.0.0.1", server.http.server_address[1], type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    server.answer = drip_headers
    began = time.monotonic()
    with pytest.raises(SignalError, match=r"has not answered within 0\.5 s"):
        read(Feed(str(tmp_path / "p"), server.url), deadline_s=0.5)
    assert time.monotonic() - began < 1.2 and server.asked == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "1", *subject]
    subprocess.run(["openssl", "req", *made, "-keyout", path, "-out", tmp_path / "c"], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "c").read_text())
    return path


@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_that_is_cut_off_on_its_way_is_none(tmp_path: Path, certificate: Path, cut: bool) -> None:
    """It ends where its connection does. Who is on the way cannot say so in TLS, but can end the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True) as encrypted:
            encrypted.recv(65536)
            encrypted.sendall(b"HTTP/1.0 200 OK\r\n\r\n0.1")
            if not cut:
                encrypted.sendall(b"234")
                encrypted.unwrap().close()

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as beside:
        served = beside.submit(serve, listening)
        files = Files(True, 5.0, ssl.create_default_context(cafile=certificate))
        feed = Feed(str(tmp_path / "p"), f"https://localhost:{listening.getsockname()[1]}/")
        if cut:
            with pytest.raises(SignalError, match="localhost cannot be asked"):
                files.read("power", feed, Format.CSV, NOON, NOON, no_rubbish)
            assert not (tmp_path / "p").exists()
        else:
            assert files.read("power", feed, Format.CSV, NOON, NOON, no_rubbish).text == "0.1234"
        served.exception(10)


def test_too_much_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_BYTES", 1 << 20)
    server.answer = text("x" * ((1 << 20) + 1))
    with pytest.raises(SignalError, match="sends over 1 MiB"):
        read(Feed(str(tmp_path / "p"), server.url))
    (tmp_path / "p").write_text("x" * ((1 << 20) + 1))
    with pytest.raises(SignalError, match="over 1 MiB"):
        read(Feed(str(tmp_path / "p")))


def test_a_port_that_nobody_listens_at(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=r"signal power: 127\.0\.0\.1 cannot be asked: Connection refused"):
        read(Feed(str(tmp_path / "p"), "http://127.0.0.1:1/?securityToken=hidden"))


@pytest.mark.parametrize(
    ("format", "where"),
    [
        (Format.ELECTRICITY_MAPS, ("auth-token", "s3cret")),
        (Format.CARBON_AWARE, ("Authorization", "Bearer s3cret")),
        (Format.ENTSOE, ("", "/?securityToken=s3cret")),
    ],
)
def test_a_token_goes_where_its_server_wants_it(
    server: Server, tmp_path: Path, format: Format, where: tuple[str, str]
) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    key.chmod(0o600)
    read(Feed(str(tmp_path / "p"), server.url + "/", str(key)), format)
    path, headers = server.asked[0]
    assert (headers[where[0]] if where[0] else path) == where[1]


def test_watttime_is_logged_in_to(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTTIME", "me:pass")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        text('{"token": "abc.def"}' if handler.path == "/login" else "said")(handler)

    server.answer = answer
    assert (
        read(Feed(str(tmp_path / "p"), f"{server.url}/v3/forecast", token_env="WATTTIME"), Format.WATTTIME)[0] == "said"
    )
    assert [path for path, _ in server.asked] == ["/login", "/v3/forecast"]
    assert server.asked[0][1]["Authorization"] == "Basic bWU6cGFzcw=="
    assert server.asked[1][1]["Authorization"] == "Bearer abc.def"


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_token_is_kept_and_never_shown(server: Server, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\nand more")
    key.chmod(mode)
    with pytest.raises(SignalError) as caught:
        read(Feed(str(tmp_path / "p"), server.url, str(key)))
    told = "everybody can read it" if mode == 0o644 else "no line of printable characters"
    assert told in caught.value.message and "s3cret" not in str(caught.value) and server.asked == []
