"""What a move would send, how long it would take and pause: for all guests and links at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIB_PER_GIB = 1024.0


@dataclass(frozen=True)
class Copies:
    """Of guest g from site s to site d, as [g, s, d]: MiB on the link, seconds, and the pause in seconds. Infinite
    where there is no link, or where the copy would not converge."""

    mib: Floats
    seconds: Floats
    pause_s: Floats


def expected(
    memory_mib: Floats, disk_mib: Floats, dirty_mib_s: Floats, rate_mib_s: Floats, most_pause_s: float
) -> Copies:
    """Pre-copy: each pass sends what was dirtied during the one before, until the rest fits into the pause. So pass n
    sends memory x (dirty / rate)^n. `rate_mib_s` is [s, d], 0 where there is no link."""
    rate = np.where(rate_mib_s > 0, rate_mib_s, np.nan)[None]
    memory, dirty = memory_mib[:, None, None], dirty_mib_s[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.broadcast_to(np.minimum(dirty / rate, 1.0), (len(memory_mib), *rate_mib_s.shape))
        in_pause = rate * most_pause_s
        passes = np.where(memory > in_pause, np.ceil(np.log(in_pause / memory) / np.log(ratio)), 0.0)
        passes = np.where((ratio <= 0) & (memory > in_pause), 1.0, passes)
        converges = (ratio < 1.0) | (memory <= in_pause)
        rest = memory * np.where(passes > 0, ratio**passes, 1.0)
        sent = np.where(passes > 0, memory * (1 - ratio ** (passes + 1)) / (1 - ratio), memory)
        sent = sent + disk_mib[:, None, None]
        fits = converges & np.isfinite(rate)
        return Copies(*(np.where(fits, value, np.inf) for value in (sent, sent / rate, rest / rate)))
