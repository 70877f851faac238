"""The driver of names: its key file, and servers that answer anything."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import dns.tsig
import pytest

from tests.knot import OTHER_SECRET, SECRET, key_file
from vmacro.drivers import dns as driver
from vmacro.drivers.dns import DnsNames, read_key
from vmacro.errors import ConfigurationError, NamesError
from vmacro.model.names import NameFacts, RecordSet

WWW, OLD = "www.example.test", "10.50.1.97"
KEY = dns.tsig.Key("vmacro.", SECRET, "hmac-sha256")
Answer = Callable[[bytes], bytes]


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """Answers each question once, by TCP."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                size = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL))[0]
                client.sendall(answer(client.recv(size, socket.MSG_WAITALL)))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def framed(wire: bytes | None) -> bytes:
    assert wire is not None
    return struct.pack("!H", len(wire)) + wire


def response(question: bytes, *lines: str, aa: bool = True, rcode: int = 0) -> bytes:
    """Signed. A line: NAME TTL TYPE TEXT."""
    answer = dns.message.make_response(dns.message.from_wire(question, keyring=KEY))
    answer.flags |= dns.flags.AA if aa else 0
    answer.set_rcode(dns.rcode.Rcode(rcode))
    for name, ttl, kind, text in (line.split(maxsplit=3) for line in lines):
        answer.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, text))
    return framed(answer.to_wire())


def signed_with_another(question: bytes) -> bytes:
    asked = dns.message.from_wire(question, keyring=KEY)
    answer = dns.message.make_response(asked)
    answer.use_tsig(dns.tsig.Key("vmacro.", OTHER_SECRET, "hmac-sha256"))
    answer.request_mac = asked.mac or b""
    return framed(answer.to_wire())


def unsigned(question: bytes) -> bytes:
    plain = dns.message.make_response(dns.message.from_wire(question, keyring=KEY))
    plain.tsig, plain.keyring = None, None
    return framed(plain.to_wire())


def many(question: bytes) -> bytes:
    asked = dns.message.from_wire(question, keyring=KEY)
    answer = dns.message.make_response(asked)
    answer.flags |= dns.flags.AA
    kind = asked.question[0].rdtype
    if kind == 1:
        answer.answer.append(dns.rrset.from_text(f"{WWW}.", 30, "IN", "A", *(f"10.1.1.{n}" for n in range(65))))
    return framed(answer.to_wire())


def of_another_class(question: bytes) -> bytes:
    """Two sets of records, both A: that of CH has a name before its number (RFC 1035 section 3.4.1 is about IN)."""
    asked = dns.message.from_wire(question, keyring=KEY)
    answer = dns.message.make_response(asked)
    answer.flags |= dns.flags.AA
    if asked.question[0].rdtype == 1:
        answer.answer.append(dns.rrset.from_text(f"{WWW}.", 30, "IN", "A", OLD))
        answer.answer.append(dns.rrset.from_text(f"{WWW}.", 30, "CH", "A", ". 1"))
    return framed(answer.to_wire())


HOSTILE: dict[str, Answer] = {
    "another class beside": of_another_class,
    "nothing": lambda _q: b"",
    "half": lambda q: response(q)[:9],
    "garbage": lambda _q: framed(b"\x00" * 600),
    "less than it says": lambda _q: struct.pack("!H", 0xFFFF) + b"x" * 100,
    "its own question": framed,
    "another id": lambda q: framed(b"\xff\xff" + response(q)[4:]),
    "not signed": unsigned,
    "signed with another key": signed_with_another,
    "changed after it was signed": lambda q: response(q, f"{WWW}. 30 A {OLD}").replace(
        socket.inet_aton(OLD), socket.inet_aton("10.9.9.9")
    ),
    "more records than anybody has": many,
    "another name": lambda q: response(q, f"evil.example.test. 30 A {OLD}"),
    "another type": lambda q: response(q, f"{WWW}. 30 TXT hello"),
    "an alias": lambda q: response(q, f"{WWW}. 30 CNAME evil.example.test."),
    "a mapped address": lambda q: response(q, f"{WWW}. 30 AAAA ::ffff:10.9.9.9"),
    "not authoritative": lambda q: response(q, aa=False),
    "SERVFAIL": lambda q: response(q, rcode=dns.rcode.SERVFAIL),
    "an unknown rcode": lambda q: response(q, rcode=14),
}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return key_file(tmp_path / "key")


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_signed_answer_to_the_question_is_no_answer(key: Path, answer: Answer) -> None:
    with server(answer) as port:
        names = DnsNames("127.0.0.1", port, key)
        seen = NameFacts(WWW, RecordSet((OLD,), 30))
        for ask in (lambda: names.look(WWW), lambda: names.replace(seen, ("10.9.9.9",))):
            with pytest.raises(NamesError) as told:
                ask()
            assert told.value.message.startswith("name server 127.0.0.1: ") and SECRET not in str(told.value)
            assert told.value.message.isprintable() and told.value.code in ("silent", "key", "refused")


def test_an_honest_answer_is_taken(key: Path) -> None:
    """Else the test above would prove little."""

    def honest(question: bytes) -> bytes:
        kind = dns.message.from_wire(question, keyring=KEY).question[0].rdtype
        return response(question, *([f"{WWW}. 30 A {OLD}"] if kind == 1 else []))

    with server(honest) as port:
        assert DnsNames("127.0.0.1", port, key).look(WWW) == NameFacts(WWW, RecordSet((OLD,), 30))


def test_a_server_that_keeps_us_waiting_is_silent(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TIMEOUT_S", 0.3)
    waiting = threading.Event()

    def slow(_question: bytes) -> bytes:
        waiting.wait(5)
        return b""

    with server(slow) as port, pytest.raises(NamesError, match=r"no answer within 0\.3 s") as told:
        try:
            DnsNames("127.0.0.1", port, key).look(WWW)
        finally:
            waiting.set()
    assert told.value.code == "silent"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_that_others_can_read_is_not_used(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(ConfigurationError) as told:
        read_key(key)
    assert f"{key}: dns.key_file: mode {mode:04o}, must be 0600" in told.value.message
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hush",
        f'key "x" {{ algorithm hmac-md5; secret "{SECRET}"; }};',
        f'key "x" {{ algorithm hmac-sha1; secret "{SECRET}"; }};',
        f'key "a..b" {{ algorithm hmac-sha256; secret "{SECRET}"; }};',
        'key "x" { algorithm hmac-sha256; secret "AAAAAAAAAAAAAAAAA"; };',
        f'key "x" {{ algorithm hmac-sha256; secret "{SECRET}"; }};' + " " * 5000,
        f'key "x" {{ algorithm hmac-sha256; secret "{SECRET}"; }};' * 2,
        "\udcff",
    ],
    ids=["empty", "no key", "MD5", "SHA-1", "a bad name", "bad base64", "too long", "two", "no text"],
)
def test_what_is_no_key_is_said_and_not_shown(key: Path, text: str) -> None:
    key.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError) as told:
        read_key(key)
    assert f"{key}: dns.key_file: " in told.value.message
    assert SECRET not in str(told.value) and "hush" not in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        f'key "vmacro" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n',
        f"# made by tsig-keygen\nkey vmacro. {{ algorithm hmac-sha512; secret {SECRET}; }};",
    ],
)
def test_keys_as_tsig_keygen_writes_them(key: Path, text: str) -> None:
    key.write_text(text)
    found = read_key(key)
    assert found.name.to_text() == "vmacro." and SECRET not in str(found.name)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none: dns\.key_file: cannot be read: No such file"):
        read_key(tmp_path / "none")
