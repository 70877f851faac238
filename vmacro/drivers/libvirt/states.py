"""What libvirt says of a domain in numbers, in words. A number that is none of these is told as it is."""

from __future__ import annotations

from typing import Any

import libvirt

from vmacro.model.facts import ARRIVING, CRASHED, LEAVING, SHUT_OFF, SUSPENDED

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "without a state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: SUSPENDED,
}
_REASONS = {
    libvirt.VIR_DOMAIN_PAUSED: {
        libvirt.VIR_DOMAIN_PAUSED_USER: "by a user",
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "for a migration",
        libvirt.VIR_DOMAIN_PAUSED_SAVE: "to be saved",
        libvirt.VIR_DOMAIN_PAUSED_DUMP: "for a dump",
        libvirt.VIR_DOMAIN_PAUSED_IOERROR: "after an I/O error",
        libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "by its watchdog",
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "as its snapshot was",
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "while it shuts down",
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "for a snapshot",
        libvirt.VIR_DOMAIN_PAUSED_CRASHED: "since it has crashed",
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "while it starts",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "for a post-copy",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "since its post-copy failed",
    },
    libvirt.VIR_DOMAIN_SHUTOFF: {
        libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "it was shut down",
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "it was destroyed",
        libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "it has crashed",
        libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "it has migrated",
        libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "it was saved",
        libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "it could not be started",
        libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "as its snapshot was",
        libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "its libvirt could not keep it",
    },
}
_JOBS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN: "a job without a name",
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: ARRIVING,
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: LEAVING,
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "revert to a snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
    10: "deletion of a snapshot",  # since libvirt 9.0
}


def state_word(state: int) -> str:
    """Of virDomainState; one that we do not know is told as it is."""
    return _STATES.get(state, f"state {state}")


def reason_word(state: int, reason: int) -> str:
    """Of the reasons that each state has; one that we do not know is told as it is, and '' where libvirt knows none."""
    return _REASONS.get(state, {}).get(reason, f"reason {reason}" if reason else "")


def job(domain: Any) -> str:
    """What libvirt is at work on with a domain, in words; '' for nothing. Raises libvirtError where that cannot be
    known."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            return ""  # it does not run, or has left
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return ARRIVING  # «migration statistics are available only on the source host»
        raise
    operation = stats.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN)
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return ""
    return _JOBS.get(operation, f"job {str(operation)[:20]}")
