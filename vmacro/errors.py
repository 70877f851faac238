"""Every failure a user can meet, named by where it leaves the guest.

Bugs are not VmacroErrors, and are never caught.
"""

from __future__ import annotations

from vmacro.wire.text import lines, printable


class VmacroError(Exception):
    """The message names the subject, what failed and the value seen; `hint` says what to do about it. Libraries, hosts
    and guests have said much of that: here it is escaped, but for line ends.

    A move that has begun ends in an Outcome instead (model/moves.py), which has the exit codes 0 and 4 to 6.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = lines(message)
        self.hint = lines(hint)

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def without_subject(message: str, subject: str) -> str:
    """A message that may begin with its subject, for whoever names that already."""
    return message.removeprefix(f"{subject}: ")


def reason_of(error: BaseException) -> str:
    """The first line of what an error says; of one of the system's its text alone, without number and file."""
    said = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return printable(next(iter(said.strip().splitlines()), type(error).__name__), 1000)


def all_of(error: BaseException) -> str:
    """All that an error says, in one line of at most 2000 characters."""
    return printable(" ".join(str(error).split()) or type(error).__name__, 2000)


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


class TakenError(HostError):
    """What was to be reserved is somebody else's already."""


class UnknownVerbError(HostError):
    """The host side is of a vmacro that did not have this verb yet."""


class UnreachableError(HostError):
    """No answer from the host."""


class UntrustedError(HostError):
    """The host could not prove who it is, or we could not prove to it who we are (TLS, certificates)."""


class UnsupportedError(HostError):
    """The host runs a hypervisor that no driver here is for. Nothing was changed."""


class NotReachedError(HostError):
    """A guest has arrived, and it is certain that one of its addresses is not reached there, or will not be."""


class CopyError(HostError):
    """libvirt reports that a migration failed or was aborted."""


class DeadlineError(HostError):
    """A phase took longer than it may."""


class InterruptedMoveError(VmacroError):
    """An operator stopped the move before the point of no return."""


class JournalError(VmacroError):
    """The durable log could not be written or read."""


class EventError(VmacroError):
    """What was written down of an event cannot be read."""


class ClaimedError(PlanRejectedError):
    """Another move has the guest. Nothing was changed."""


class TakenOverError(VmacroError):
    """Another process has what was this one's, a guest's move for one, since this one was cut off from the journal's
    database for too long. It goes on there; here nothing more is done."""

    exit_code = 6


class AgentError(VmacroError):
    """The guest's agent did not answer, or refused. `code` is the protocol's, or `silent`."""

    def __init__(self, message: str, hint: str = "", code: str = "silent") -> None:
        super().__init__(message, hint)
        self.code = code


class NamesError(VmacroError):
    """The name server could not be asked, or did not do it. `code`: `silent`, `key` (it does not take our TSIG key, or
    its answer is not signed with it), `changed` (somebody else has changed the name), or `refused`."""

    def __init__(self, message: str, hint: str = "", code: str = "refused") -> None:
        super().__init__(message, hint)
        self.code = code


class HookError(VmacroError):
    """An executable of the operator's own failed, or could not be run."""


class ProvisioningError(VmacroError):
    """A playbook failed at some host. It may be run again."""


class LabError(VmacroError):
    """Something in the lab failed."""


class LabRefusedError(LabError):
    """The machine lacks what the lab needs. Nothing was changed."""

    exit_code = 3
