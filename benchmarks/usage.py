"""What the calling process has used so far."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def cpu_s() -> float:
    """CPU seconds of this process, its threads included and its children left out."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def peak_mb() -> float:
    """Peak resident memory of this process, in MiB, as /proc tells it.

    Not `ru_maxrss`: on Linux a started process inherits the peak of the one that started it
    there, and so would show the memory of whoever made the benchmark's data.

    Raises OSError where there is no /proc.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError(f"{sys.platform}: peak memory is read from {status}; run this on Linux")
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
