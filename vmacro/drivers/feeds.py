"""Files of others, and their renewal over HTTPS: one GET each, with bounds, a deadline, and no redirects."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from vmacro import private
from vmacro.errors import reason_of
from vmacro.fleet.feeds import Feed, FeedText, Format
from vmacro.fleet.recorded import MOST_CHARACTERS, SignalError, watttime_token
from vmacro.wire.text import printable

MOST_BYTES = MOST_CHARACTERS
DEADLINE_S = 20.0
_TIMES = {Format.ENTSOE: "%Y%m%d%H%M"}
_TOKEN = re.compile(r"[!-~]{1,8000}")


class Files:
    """`fetch`: whether what is old is fetched; what cannot be fetched stays as it is, and grows older."""

    def __init__(self, fetch: bool, deadline_s: float = DEADLINE_S, context: ssl.SSLContext | None = None) -> None:
        self._fetch, self._deadline_s, self._context = fetch, deadline_s, context

    def read(
        self, name: str, feed: Feed, format: Format, begin: datetime, end: datetime, see: Callable[[FeedText], object]
    ) -> FeedText:
        """See ports.Feeds."""
        path, trouble = Path(feed.file), ""
        if self._fetch and feed.url and _age_s(path) > feed.refresh.total_seconds():
            try:
                found = self._fetched(name, feed, format, begin, end)
                see(FeedText(found.decode(errors="replace"), datetime.now(UTC)))
                private.write(path, found)
            except SignalError as error:
                trouble = error.message
            except OSError as error:
                trouble = f"{path}: cannot be written: {reason_of(error)}"
        return _read(name, path, trouble)

    def _fetched(self, name: str, feed: Feed, format: Format, begin: datetime, end: datetime) -> bytes:
        shape = _TIMES.get(format, "%Y-%m-%dT%H:%MZ")
        times = {key: quote(at.astimezone(UTC).strftime(shape)) for key, at in (("begin", begin), ("end", end))}
        url = feed.url.replace("{begin}", times["begin"]).replace("{end}", times["end"])
        token = _token(name, feed)
        if format is Format.ENTSOE and token:
            return self._get(name, url + ("&" if "?" in url else "?") + f"securityToken={quote(token)}", {})
        if format is Format.WATTTIME and ":" in token:
            parts = urlsplit(url)
            login = urlunsplit((parts.scheme, parts.netloc, "/login", "", ""))
            basic = base64.b64encode(token.encode()).decode()
            said = self._get(name, login, {"Authorization": f"Basic {basic}"})
            token = watttime_token(name, said.decode(errors="replace"))
        header = "auth-token" if format is Format.ELECTRICITY_MAPS else "Authorization"
        value = token if format is Format.ELECTRICITY_MAPS else f"Bearer {token}"
        return self._get(name, url, {header: value} if token else {})

    def _get(self, name: str, url: str, headers: Mapping[str, str]) -> bytes:
        """Of what may be in the URL, its server's name alone is told: there may be a token in it."""
        parts = urlsplit(url)
        subject, deadline = f"signal {name}: {parts.hostname}", time.monotonic() + self._deadline_s
        connection, context = self._connection(parts)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            if connection.sock is not None:
                with suppress(OSError):  # it has ended meanwhile
                    connection.sock.shutdown(socket.SHUT_RDWR)  # which wakes who reads from it; close() does not

        timer = threading.Timer(self._deadline_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            connection.sock = _connected(connection.host, connection.port, context, deadline)
            if late.is_set():  # before there was anything to wake
                raise TimeoutError
            target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", target, headers={"User-Agent": "vmacro", **headers})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise SignalError(f"{subject} answers {response.status} {printable(response.reason, 60)}", "its token?")
            body = _body(subject, response, deadline)
            if late.is_set() or response.length:  # it was cut off: what there is of it is no answer
                raise ConnectionError("its answer is not whole")
            return body
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise SignalError(f"{subject} has not answered within {self._deadline_s:g} s") from None
            raise SignalError(f"{subject} cannot be asked: {reason_of(error)}") from error
        finally:
            timer.cancel()
            connection.close()

    def _connection(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, ssl.SSLContext | None]:
        """Not connected yet, and how it is encrypted."""
        host = parts.hostname or ""
        if parts.scheme == "http":  # to this machine itself: the policy allows no other (vmacro.sources)
            return http.client.HTTPConnection(host, parts.port), None
        context = self._context or ssl.create_default_context()
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # see _connected
        return http.client.HTTPSConnection(host, parts.port, context=context), context


def _connected(host: str, port: int, context: ssl.SSLContext | None, deadline: float) -> socket.socket:
    """To the first of its addresses that answers. All have until the deadline together: whoever has the name may give
    it many. An end that TLS has not announced is none, since anybody on the way could cut an answer short: in two
    places Python is told so. Raises OSError."""
    error = OSError("it has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left_s(deadline))
            sock.connect(address)
            sock.settimeout(_left_s(deadline))
            return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False) if context else sock
        except ssl.SSLError:
            sock.close()
            raise
        except OSError as other:
            sock.close()
            error = other
    raise error


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _body(subject: str, response: http.client.HTTPResponse, deadline: float) -> bytes:
    found = b""
    while part := response.read1(1 << 16):
        found += part
        if len(found) > MOST_BYTES:
            raise SignalError(f"{subject} sends over {MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return found


def _token(name: str, feed: Feed) -> str:
    """Never shown, nor any part of it."""
    token = os.environ.get(feed.token_env, "") if feed.token_env else ""
    if feed.token_env and not token:
        raise SignalError(f"signal {name}: the environment has no {feed.token_env}")
    if feed.token_file:
        path = Path(feed.token_file)
        try:
            if path.stat().st_mode & stat.S_IROTH:
                raise SignalError(f"signal {name}: token_file {path}: everybody can read it", "chmod 600")
            with path.open() as lines:
                token = lines.read(10_000)
        except (OSError, UnicodeDecodeError) as error:
            raise SignalError(f"signal {name}: token_file {path}: cannot be read: {reason_of(error)}") from None
    token = token.strip()
    if token and not _TOKEN.fullmatch(token):
        raise SignalError(f"signal {name}: its token is no line of printable characters")
    return token


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _read(name: str, path: Path, trouble: str) -> FeedText:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
            told = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    except OSError as error:
        raise SignalError(trouble or f"signal {name}: {path}: cannot be read: {reason_of(error)}") from error
    if len(raw) > MOST_BYTES:
        raise SignalError(f"signal {name}: {path}: over {MOST_BYTES >> 20} MiB")
    return FeedText(raw.decode(errors="replace"), told, trouble)
