"""Tables of a policy for where signals come from: files, URLs, and what is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from vmacro.config import Strict, shown
from vmacro.errors import ConfigurationError
from vmacro.fleet.computed import Schedule
from vmacro.fleet.feeds import COMPUTED, Feed, Format
from vmacro.fleet.policy import Known, Source
from vmacro.fleet.signals import Kind, Unit
from vmacro.wording import spelled

PRICE, CARBON, LOAD = "price", "carbon", "activity"
# What each source needs besides `source`, and what it may have besides that.
_FILED = ("url", "token_file", "token_env", "refresh_minutes", "ahead_hours", "published")
KEYS: dict[Format, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Format.FIXED: (("value", "unit"), ("kind",)),
    Format.SUN: (("latitude", "longitude", "day", "night", "unit"), ("above_degrees", "kind")),
    Format.SCHEDULE: (("cron", "hours", "on", "off", "unit"), ("time_zone", "kind")),
    Format.CSV: (("file", "unit"), ("kind", *_FILED)),
    Format.ENTSOE: (("file",), _FILED),
    Format.CARBON_AWARE: (("file", "kind"), _FILED),
    Format.GB_CARBON: (("file",), _FILED),
    Format.ELECTRICITY_MAPS: (("file",), _FILED),
    Format.WATTTIME: (("file", "kind"), _FILED),
}
FOR = {
    PRICE: (*COMPUTED, Format.CSV, Format.ENTSOE),
    CARBON: (
        *COMPUTED,
        Format.CSV,
        Format.CARBON_AWARE,
        Format.GB_CARBON,
        Format.ELECTRICITY_MAPS,
        Format.WATTTIME,
    ),
    LOAD: (*COMPUTED, Format.CSV),
}
_variable = spelled(r"[A-Za-z0-9_]{0,100}", "a variable's name has letters, digits and underscores, 100 at most")
_clock_time = spelled(r"(([01][0-9]|2[0-3]):[0-5][0-9])?", "must be HH:MM, such as 13:00")
Variable = Annotated[str, AfterValidator(_variable)]
ClockTime = Annotated[str, AfterValidator(_clock_time)]
SourceName = Literal[
    "fixed", "sun", "schedule", "csv", "entsoe", "carbon-aware", "gb-carbon", "electricity-maps", "watttime"
]


def zone_named(name: str) -> ZoneInfo:
    """A time zone of IANA's. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone {shown(name)!r}; such as Europe/Berlin") from None


class Fetched(Strict):
    """Where a file is fetched, if not by somebody else."""

    url: str = Field(
        default="",
        max_length=2000,
        description="https; where the file is fetched, with {begin} and {end} for the times that are wanted",
    )
    token_file: Path | None = Field(default=None, description="has the token that the URL's server wants")
    token_env: Variable = Field(default="", description="or the environment variable that has it")
    refresh_minutes: int = Field(
        default=60, ge=5, le=10_080, description="how old the file may get before it is fetched"
    )

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return check_url(url)

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token_file is not None and self.token_env:
            raise ValueError("token_file and token_env: only one of them")
        if (self.token_file is not None or self.token_env) and not self.url:
            raise ValueError("token_file, token_env: nobody is asked with it, as there is no url")
        return self

    def feed(self, file: Path, folder: Path) -> Feed:
        """With its paths made whole."""
        token = str(folder / self.token_file) if self.token_file is not None else ""
        return Feed(str(folder / file), self.url, token, self.token_env, timedelta(minutes=self.refresh_minutes))


class FeedTable(Fetched):
    """A file of somebody else's, and where it may be fetched."""

    file: Path = Field(description="relative to the policy's folder; its age is that of what it says")

    def made(self, folder: Path) -> Feed:
        """Relative to the policy's folder."""
        return self.feed(self.file, folder)


def check_url(url: str) -> str:
    """Encrypted, or to this machine itself; without a password. Raises ValueError, which shows none."""
    if not url:
        return url
    try:
        parts = urlsplit(re.sub(r"[{](begin|end)[}]", "0", url))
        named, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    at_home = named in ("localhost", "127.0.0.1", "::1")
    if not named or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not at_home):
        raise ValueError("must begin with https://, or http:// where it leads to this machine itself")
    if "@" in parts.netloc:
        raise ValueError("must have no user or password: token_file names a file with a token")
    if not url.isascii() or not url.isprintable() or " " in url or "{" in parts.netloc or parts.fragment:
        raise ValueError("must be printable ASCII, without spaces and #")
    return url


class SourceTable(Fetched):
    """Where one signal comes from. Which keys it takes depends on `source`."""

    source: SourceName = Field(description="in which format it is written, or by what it is computed")
    unit: Unit | None = Field(default=None, description="of its values: 1/kWh, 1/MWh, gCO2/kWh, lbs/MWh, share")
    kind: Literal["", "average", "marginal"] = Field(default="", description="of carbon, where its format has both")
    file: Path | None = Field(default=None, description="relative to the policy's folder; its age is the signal's")
    ahead_hours: float = Field(
        default=24.0, gt=0, le=240, description="in simulations: how far ahead its values were known"
    )
    published: ClockTime = Field(
        default="",
        description="in simulations: when the values of the next day come out, HH:MM, instead of ahead_hours",
    )
    value: float | None = Field(default=None, ge=-1e7, le=1e7, description="fixed: what it always is")
    on: float | None = Field(default=None, ge=-1e7, le=1e7, description="schedule: its value while it is on")
    off: float | None = Field(default=None, ge=-1e7, le=1e7, description="schedule: its value otherwise")
    cron: str = Field(default="", max_length=200, description="schedule: when it goes on, five fields")
    hours: float | None = Field(default=None, gt=0, le=8784, description="schedule: how long it is on")
    time_zone: str = Field(default="", max_length=100, description="schedule: whose clocks; default: the policy's")
    latitude: float | None = Field(default=None, ge=-90, le=90, description="sun: degrees, north is positive")
    longitude: float | None = Field(default=None, ge=-180, le=180, description="sun: degrees, east is positive")
    day: float | None = Field(default=None, ge=-1e7, le=1e7, description="sun: the value while it stands high enough")
    night: float | None = Field(default=None, ge=-1e7, le=1e7, description="sun: the value while it does not")
    above_degrees: float = Field(default=0.0, ge=-90, le=90, description="sun: how high that is")

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        return zone_named(name).key if name else name

    @model_validator(mode="after")
    def _has_its_keys(self) -> Self:
        needed, allowed = KEYS[Format(self.source)]
        given = self.model_fields_set - {"source"}
        problems = [f"{key}: source {self.source} needs it" for key in needed if key not in given]
        problems += [f"{key}: source {self.source} has no use for it" for key in sorted(given - {*needed, *allowed})]
        if problems:
            raise ValueError("; ".join(problems))
        self._schedule("UTC")
        return self

    @property
    def carbon_kind(self) -> Kind:
        """Which of the two it is as carbon; what is published as average needs no word."""
        return Kind.CARBON_MARGINAL if self.kind == "marginal" else Kind.CARBON_AVERAGE

    def problems(self, what: str) -> Iterator[str]:
        """What stands against it as a price, carbon or activity: KEY: text."""
        form = Format(self.source)
        if form not in FOR[what]:
            yield f"source: {form} says nothing of {what}; known: {', '.join(FOR[what])} (value: {form!s})"
        elif what == CARBON and not self.kind and "kind" in sum(KEYS[form], ()):
            yield "kind: average or marginal? These are never mixed"
        elif what != CARBON and self.kind:
            yield f"kind: of carbon alone (value: {self.kind})"
        if self.unit is not None:
            try:
                self.unit.factor(self._kind(what))
            except ConfigurationError as error:
                yield f"unit: {error.message.removeprefix('signal: ')}; {error.hint} (value: {self.unit!s})"

    def made(self, name: str, key: str, what: str, zone: str, folder: Path) -> Source:
        """The source of a signal in which there is no problem."""
        form, kind = Format(self.source), self._kind(what)
        factor = self.unit.factor(kind) if self.unit is not None else 1.0
        values = {Format.SCHEDULE: (self.on, self.off), Format.SUN: (self.day, self.night)}
        high, low = values.get(form, (self.value, None))
        published = time.fromisoformat(self.published) if self.published else None
        return Source(
            name,
            key,
            kind,
            form,
            self.feed(self.file, folder) if self.file is not None else None,
            self.unit,
            "",
            (high or 0.0) * factor,
            (low or 0.0) * factor,
            self._schedule(zone),
            self.latitude or 0.0,
            self.longitude or 0.0,
            self.above_degrees,
            Known(timedelta(hours=self.ahead_hours), published),
        )

    def _kind(self, what: str) -> Kind:
        return {PRICE: Kind.PRICE, LOAD: Kind.LOAD}.get(what, self.carbon_kind)

    def _schedule(self, zone: str) -> Schedule | None:
        return schedule(self.cron, self.hours, self.time_zone or zone) if self.hours is not None else None


def schedule(cron: str, hours: float, zone: str) -> Schedule:
    """Raises ValueError."""
    try:
        return Schedule(cron, timedelta(hours=hours), ZoneInfo(zone))
    except ConfigurationError as error:
        raise ValueError(f"cron: {error.message.removeprefix('schedule: ')}; {error.hint}") from None
