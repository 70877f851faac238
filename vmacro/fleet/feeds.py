"""What is read of others, and how it is written: what the port of feeds takes, without all that computes signals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Format(StrEnum):
    """How a source writes down what it says, or by what a signal is computed."""

    FIXED = "fixed"
    SUN = "sun"
    SCHEDULE = "schedule"
    CSV = "csv"
    ENTSOE = "entsoe"
    CARBON_AWARE = "carbon-aware"
    GB_CARBON = "gb-carbon"
    ELECTRICITY_MAPS = "electricity-maps"
    WATTTIME = "watttime"
    ICALENDAR = "icalendar"
    RECORDING = "recording"


COMPUTED = (Format.FIXED, Format.SUN, Format.SCHEDULE)


@dataclass(frozen=True)
class Feed:
    """Where a text comes from: a file, and the URL that it is fetched from once it is older than `refresh`, '' where
    somebody else fetches it. The token is one of `token_file` or `token_env`, which name it and never are it."""

    file: str
    url: str = ""
    token_file: str = ""
    token_env: str = ""
    refresh: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class FeedText:
    """What a file of somebody else's says, and when it was fetched or written. `trouble`: why it is not newer, ''
    where it is as new as it should be."""

    text: str
    told: datetime
    trouble: str = ""
