"""The inventory's tables [policy] and [fleet]: the bounds of a move, and of many at once."""

from __future__ import annotations

from pydantic import ConfigDict, Field, model_validator

from vmacro.config import Strict
from vmacro.model import nouns
from vmacro.model.batches import Limits
from vmacro.wire.agent_verbs import LONGEST_CLAIM_S

DEFAULTS = nouns.Policy()  # the one place of a policy's defaults
FLEET = Limits()
LONGEST_CARRIAGE_S = 366 * 86_400


class Policy(Strict):
    """Bounds of a move."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    bandwidth_mib_s: int = Field(default=DEFAULTS.bandwidth_mib_s, ge=0, le=1 << 20)
    """Most that a copy may send; 0: as fast as the link goes."""
    max_downtime_ms: int = Field(default=DEFAULTS.max_downtime_ms, ge=1, le=60_000)
    """Longest pause that QEMU may plan for. A copy asks for 20 ms first, for more only if it does not converge."""
    downtime_limit_ms: int = Field(default=DEFAULTS.downtime_limit_ms, ge=100, le=600_000)
    """A pause that lasts longer is given up: the copy is aborted."""
    copy_timeout_s: float = Field(default=DEFAULTS.copy_timeout_s, gt=0, le=LONGEST_CLAIM_S)
    """Longest copy of the memory; then the move rolls back."""
    arrival_timeout_s: float = Field(default=DEFAULTS.arrival_timeout_s, gt=0, le=LONGEST_CLAIM_S)
    """Longest wait for the agent to answer at the destination with its new address."""
    settle_timeout_s: float = Field(default=DEFAULTS.settle_timeout_s, gt=0, le=LONGEST_CLAIM_S)
    """Longest wait for connections to use the new address."""
    consent_timeout_ms: int = Field(default=DEFAULTS.consent_timeout_ms, ge=1, le=10_000)
    """How long the checks wait to see whether a client joins an address that is announced to it."""
    join_timeout_s: float = Field(default=DEFAULTS.join_timeout_s, ge=0, le=nouns.MOST_JOIN_S)
    """A seamless copy begins once no more clients have joined the new address for so long; after 60 s at most."""
    phase_timeout_s: float = Field(default=DEFAULTS.phase_timeout_s, gt=0, le=LONGEST_CLAIM_S)
    """Longest that a phase may take, besides the wait that has a limit of its own."""
    move_timeout_s: float = Field(default=DEFAULTS.move_timeout_s, gt=0, le=LONGEST_CLAIM_S)
    """Longest that a move may take until the guest has arrived."""
    carry_deadline_s: float = Field(default=DEFAULTS.carry_deadline_s, ge=0, le=LONGEST_CARRIAGE_S)
    """Longest that an old address is carried for connections that still use it."""
    linger_s: float | None = Field(default=DEFAULTS.linger_s, ge=0, le=LONGEST_CARRIAGE_S)
    """How long an old address takes new connections after a seamless move; default: as long as others may keep the
    guest's names (their TTL), 60 s at least and an hour at most."""
    compression: nouns.Compression = DEFAULTS.compression
    """Whether memory is sent compressed; auto: over links that are slower than a processor compresses. Not by default:
    where hosts have no processor to spare the guest may pause for longer (docs/copy.md)."""
    drop_page_cache: bool = DEFAULTS.drop_page_cache
    """Whether the guest forgets what it keeps of files before its copy, and reads it again at the destination."""
    auto_converge: bool = DEFAULTS.auto_converge
    """Whether QEMU may slow the guest down so that its copy converges."""
    allow_connection_loss: bool = DEFAULTS.allow_connection_loss
    """Whether to move although connections will be cut."""
    allow_standstill: bool = DEFAULTS.allow_standstill
    """Whether to move a guest that cannot be copied while it runs: it stands still all through its copy. Today: PV
    guests of a Xen without shadow paging."""
    remove_source_disks: bool = DEFAULTS.remove_source_disks
    """Whether a guest's own disks are removed from the source once it runs well at the destination."""

    @model_validator(mode="after")
    def _can_be_claimed(self) -> Policy:
        """The agent refuses other claims, and no move survives that."""
        claim_s = nouns.Policy(**self.model_dump()).claim_s
        if not 1 <= claim_s <= LONGEST_CLAIM_S:
            parts = "move_timeout_s, arrival_timeout_s, settle_timeout_s and phase_timeout_s"
            raise ValueError(f"{parts} are {claim_s:g} s together: must be 1 to {LONGEST_CLAIM_S}")
        return self


class Fleet(Strict):
    """How much of a batch (`vmacro evacuate`, `drain`, `restore`, `follow`) may be under way at once, of all batches
    and workers together."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    moves_per_host: int = Field(default=FLEET.per_host, ge=1, le=1000)
    """Most moves at once that leave one host, or come to it."""
    moves_per_link: int = Field(default=FLEET.per_link, ge=1, le=1000)
    """Most moves at once between two sites, both ways together."""
    moves_in_all: int = Field(default=FLEET.in_all, ge=1, le=1000)
    """Most moves at once."""
    moves_per_worker: int = Field(default=8, ge=1, le=200)
    """Most moves at once in one process that works on batches."""
    tries: int = Field(default=FLEET.tries, ge=1, le=10)
    """How often a move of a batch is tried at most, where it was refused, or rolled back."""
    retry_after_s: float = Field(default=FLEET.retry_after_s, ge=0, le=86_400)
    """How long a guest is left alone before the next try."""

    @property
    def limits(self) -> Limits:
        """For whoever plans and begins moves."""
        return Limits(self.moves_per_host, self.moves_per_link, self.moves_in_all, self.tries, self.retry_after_s)
