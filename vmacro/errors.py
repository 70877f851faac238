"""Every failure a user can meet, named by where it leaves the guest.

Bugs are no VmacroError and are never caught.
"""

from __future__ import annotations


class VmacroError(Exception):
    """Subject, what failed, the value seen; then a hint.

    A move that has begun ends in an Outcome instead (model/moves.py), whose exit codes go on to 5 and 6.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigurationError(VmacroError):
    """What the user wrote is wrong. Nothing was contacted."""

    exit_code = 2


class PlanRejectedError(VmacroError):
    """The checks found reasons against the move. Nothing was changed."""

    exit_code = 3


class RolledBackError(VmacroError):
    """The move failed or was interrupted before the point of no return: the guest runs at the source."""

    exit_code = 4


class HostError(VmacroError):
    """A host could not be asked or refused: what a driver makes of its vendor's errors."""


class UnreachableError(HostError):
    """No answer from the host."""


class UntrustedError(HostError):
    """The host, or we, could not prove who it is (TLS, certificates)."""


class CopyError(HostError):
    """libvirt reports that a migration failed or was aborted."""


class DeadlineError(HostError):
    """A phase took longer than it may."""


class InterruptedMoveError(VmacroError):
    """Asked to stop before the guest was touched."""


class JournalError(VmacroError):
    """The durable log could not be written or read."""


class ClaimedError(PlanRejectedError):
    """Somebody else has the guest. Nothing was changed."""


class AgentError(VmacroError):
    """The guest's agent did not answer, or refused. `code` is the protocol's, or `silent`."""

    def __init__(self, message: str, hint: str = "", code: str = "silent") -> None:
        super().__init__(message, hint)
        self.code = code


class ProvisioningError(VmacroError):
    """A playbook did not end well at some host. It may be run again."""


class LabError(VmacroError):
    """The lab could not do what was asked."""


class LabRefusedError(LabError):
    """The machine lacks what the lab needs. Nothing was changed."""

    exit_code = 3
