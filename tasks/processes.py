"""Programs that a flow starts: their lines as they come, and no program outlives its flow."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from config.errors import StageStopped, TrainingError

STOPPED = 130
KEPT_LINES = 5  # of the program's last words, for the error
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}  # a log is no terminal
PR_SET_PDEATHSIG = 1


def run_program(
    command: Sequence[str],
    say: Callable[[str], None],
    *,
    what: str,
    environment: dict[str, str] | None = None,
    keep: Sequence[int] = (),
) -> None:
    """Runs a program of this project to its end and gives every line it prints to `say`.

    keep: descriptors (locks) that it holds as long as it lives. A signal to this process is sent
    on, and the program's own end (a checkpoint) is waited for. Raises StageStopped when it says
    that it was stopped, TrainingError with its last words when it failed.
    """
    last: list[str] = []
    with subprocess.Popen(  # noqa: S603 - this project's own modules, no shell
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **NO_BARS, **(environment or {})},
        pass_fds=tuple(keep),
        preexec_fn=_die_with(os.getpid()),
    ) as process:
        try:
            _read(process, say, last)
        except BaseException:
            process.terminate()
            _read(process, say, last)
            process.wait()
            raise
    if process.returncode == STOPPED:
        raise StageStopped(last[-1] if last else f"{what} was stopped")
    if process.returncode != 0:
        raise TrainingError(
            f"{what} ended with code {process.returncode}: {' | '.join(last) or 'no word'}"
        )


def _read(process: subprocess.Popen[str], say: Callable[[str], None], last: list[str]) -> None:
    if process.stdout is None:
        raise ValueError("the process was started without a pipe")
    for line in process.stdout:
        if line.strip():
            last[:] = [*last, line.rstrip()][-KEPT_LINES:]
            say(line.rstrip())


def _die_with(parent: int) -> Callable[[], None]:
    """Linux ends the program, with SIGTERM, when the flow's process is killed."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed before the line above
            os._exit(STOPPED)

    return ask
