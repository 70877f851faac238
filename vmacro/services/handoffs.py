"""The handoffs there are, by name."""

from __future__ import annotations

from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.services.handoff import Handoff, Renumber
from vmacro.services.seamless import Seamless

HANDOFFS: dict[str, Handoff] = {SEAMLESS: Seamless(), RENUMBER: Renumber()}
