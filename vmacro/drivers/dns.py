"""Guests' names at their authoritative server: RFC 2136 updates, signed by TSIG (RFC 8945), by dnspython.

What the server says is taken only where it is signed with the key, and bounded before anybody uses it. By TCP: an
answer has 64 KiB at most, and nobody else answers sooner.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from vmacro.errors import ConfigurationError, NamesError, reason_of
from vmacro.model.names import MOST_RECORDS, NameFacts, RecordSet
from vmacro.wire import fields

TIMEOUT_S = 3.0  # of one question
MOST_OF_A_KEY = 4096
A, AAAA = "A", "AAAA"
_CHANGED = (dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN, dns.rcode.NXRRSET, dns.rcode.YXRRSET)  # of prerequisites
# As tsig-keygen (BIND) writes it, and nsupdate -k reads it. Weaker algorithms: not for new keys (RFC 8945 section 6).
_KEY = re.compile(
    r'\s*key\s+"?([A-Za-z0-9._-]{1,253})"?\s*\{\s*algorithm\s+"?(hmac-sha(?:256|384|512))"?\s*;'
    r'\s*secret\s+"?([A-Za-z0-9+/]{16,1000}={0,2})"?\s*;\s*\}\s*;\s*'
)


class DnsNames:
    """Implements ports.Names. The key is read for each question: it may have been renewed."""

    def __init__(self, server: str, port: int, key_file: Path) -> None:
        self._server, self._port, self._key_file = server, port, key_file
        self._subject = f"name server {server}"

    def see_key(self) -> None:
        """Raises ConfigurationError where its file cannot be used."""
        read_key(self._key_file)

    def look(self, name: str) -> NameFacts:
        return NameFacts(name, self._records(name, A), self._records(name, AAAA))

    def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
        update = dns.update.UpdateMessage(self._zone(seen.name))
        for kind, found in ((A, seen.a), (AAAA, seen.aaaa)):
            _see_that_it_is(update, seen.name, kind, found)
            _set(update, seen.name, kind, found, [a for a in wanted if (":" in a) == (kind == AAAA)])
        answer = self._asked(update, f"an update of {seen.name}")
        if answer.rcode() in _CHANGED:
            return False
        if answer.rcode() != dns.rcode.NOERROR:
            raise self._refused(f"an update of {seen.name}", answer)
        return True

    def _records(self, name: str, kind: str) -> RecordSet:
        question = dns.message.make_query(_absolute(name), kind, flags=0)
        what = f"{name} {kind}"
        answer = self._asked(question, what)
        if answer.rcode() == dns.rcode.NXDOMAIN:
            return RecordSet()
        if answer.rcode() != dns.rcode.NOERROR or not answer.flags & dns.flags.AA:
            raise self._refused(what, answer)
        (asked,) = question.question
        others = [
            s for s in answer.answer if (s.name, s.rdclass, s.rdtype) != (asked.name, asked.rdclass, asked.rdtype)
        ]
        if others:
            text = f"{self._subject}: {name} is an alias, or answered with more than was asked for"
            raise NamesError(text, "name the guest's own name in guests.NAME.names")
        if not answer.answer:
            return RecordSet()
        (found,) = answer.answer
        if len(found) > MOST_RECORDS:
            raise NamesError(f"{self._subject}: {what}: {len(found)} records; at most {MOST_RECORDS} are handled")
        addresses = tuple(sorted(record.to_text() for record in found))
        try:
            return fields.decode(RecordSet, {"addresses": addresses, "ttl_s": found.ttl})
        except fields.FieldError as error:
            raise NamesError(f"{self._subject}: {what}: {error}") from None

    def _zone(self, name: str) -> dns.name.Name:
        """The zone that has the name: an authoritative server names it in its SOA (RFC 2308 section 3)."""
        question = dns.message.make_query(_absolute(name), "SOA", flags=0)
        answer = self._asked(question, f"the zone of {name}")
        wanted = question.question[0].name
        for found in (*answer.answer, *answer.authority):
            if found.rdtype == dns.rdatatype.SOA and wanted.is_subdomain(found.name):
                return found.name
        raise self._refused(f"the zone of {name}", answer)

    def _asked(self, question: dns.message.Message, what: str) -> dns.message.Message:
        """The signed answer. Raises NamesError, ConfigurationError."""
        question.use_tsig(read_key(self._key_file))
        try:
            answer = dns.query.tcp(question, self._server, timeout=TIMEOUT_S, port=self._port)
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadTime, dns.message.UnknownTSIGKey) as error:
            text = f"{self._subject}: {what}: our TSIG key and its answer do not go together: {reason_of(error)}"
            raise NamesError(text, f"{self._key_file}: the server's key? Do both clocks agree?", "key") from None
        except dns.exception.Timeout:
            text = f"{self._subject}: {what}: no answer within {TIMEOUT_S:g} s"
            raise NamesError(text, "is it up, and does a firewall let TCP through?", "silent") from None
        except (OSError, EOFError) as error:
            text = f"{self._subject}: {what}: no answer: {reason_of(error)}"
            raise NamesError(text, "is it up, and does a firewall let TCP through?", "silent") from None
        except (dns.exception.DNSException, ValueError) as error:
            text = f"{self._subject}: {what}: an answer that cannot be taken: {reason_of(error)}"
            raise NamesError(text, "does it serve that zone, and does it know our key?", "refused") from None
        if not answer.had_tsig:
            raise NamesError(f"{self._subject}: {what}: its answer is not signed", "does it know our key?", "key")
        return answer

    def _refused(self, what: str, answer: dns.message.Message) -> NamesError:
        said = dns.rcode.to_text(answer.rcode())
        if answer.rcode() == dns.rcode.NOERROR:
            said = "it is not authoritative for that"
        hint = "which zones does it serve, and what may our key update there?"
        return NamesError(f"{self._subject}: {what}: refused: {said}", hint)


def read_key(path: Path) -> dns.tsig.Key:
    """A TSIG key, whose secret no message shows. Raises ConfigurationError, also where others can read it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                hint = f"chmod 600 {path}; others may know the key: make another one"
                raise ConfigurationError(f"{path}: dns.key_file: mode {mode:04o}, must be 0600", hint)
            text = file.read(MOST_OF_A_KEY + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: dns.key_file: cannot be read: {reason_of(error)}") from None
    found = (
        _KEY.fullmatch("".join(_without_comments(text.decode(errors="replace"))))
        if len(text) <= MOST_OF_A_KEY
        else None
    )
    if found is None:
        wanted = 'key "NAME" { algorithm hmac-sha256; secret "BASE64"; };'
        raise ConfigurationError(f"{path}: dns.key_file: no key as tsig-keygen writes it", f"must be {wanted}")
    name, algorithm, secret = found.groups()
    try:
        return dns.tsig.Key(_absolute(name), secret, algorithm)
    except (ValueError, dns.exception.DNSException):
        raise ConfigurationError(f"{path}: dns.key_file: its name or secret is none") from None


def _without_comments(text: str) -> Iterable[str]:
    return (f"{line}\n" for line in text.splitlines() if not line.lstrip().startswith(("#", "//")))


def _absolute(name: str) -> str:
    return f"{name.rstrip('.')}."


def _see_that_it_is(update: dns.update.UpdateMessage, name: str, kind: str, seen: RecordSet) -> None:
    """A prerequisite: this set and no other, or none (RFC 2136 sections 2.4.2 and 2.4.3)."""
    if seen.addresses:
        update.present(_absolute(name), kind, *seen.addresses)
    else:
        update.absent(_absolute(name), kind)


def _set(update: dns.update.UpdateMessage, name: str, kind: str, seen: RecordSet, wanted: list[str]) -> None:
    """Also what is there already: to add that changes nothing (RFC 2136 section 3.4.2.2), and shows whether we may."""
    for address in sorted(set(seen.addresses) - set(wanted)):
        update.delete(_absolute(name), kind, address)
    for address in sorted(wanted):
        update.add(_absolute(name), seen.ttl_s, kind, address)
