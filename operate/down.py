"""`vispref down`: stops what `vispref up` runs, whether that still lives or was killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from config.errors import OperationError
from operate.processes import end
from operate.state import DEFAULT, State

PATIENCE_S = 180.0  # workers, model servers and the server have their own graces within it
LEFT_S = 10.0


def down(folder: Path | None, say: Callable[[str], None]) -> None:
    """Returns when nothing runs any more. Raises OperationError where it does not end."""
    state = State(folder or DEFAULT)
    holder = state.holder()
    process = None if holder is None else holder.find()
    if holder is None or process is None:
        _left(state, say)
        return
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while holder.find() is not None:
        if time.monotonic() > deadline:
            raise OperationError(
                f"vispref up (process {holder.pid}) has not ended in {PATIENCE_S:.0f} s; its logs "
                f"are in {state.logs}. Kill it, then vispref down stops what it leaves"
            )
        time.sleep(0.1)
    say("stopped")


def _left(state: State, say: Callable[[str], None]) -> None:
    left = [identity for identity in state.programs() if identity.find() is not None]
    if not left:
        say(f"nothing runs with the state folder {state.folder}")
        return
    end(left, LEFT_S)
    state.clear()
    say(f"stopped {len(left)} programs that a killed vispref up had left")
