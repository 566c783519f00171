"""`vispref down`: stops what `vispref up` runs, whether that still lives or was killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from config.errors import OperationError
from operate.processes import Identity, end
from operate.state import DEFAULT, State

PATIENCE_S = 180.0  # workers, model servers and the server have their own graces within it
LEFT_S = 10.0


def down(folder: Path | None, say: Callable[[str], None]) -> None:
    """Returns when nothing runs any more. Raises OperationError where it does not end."""
    state = State(folder or DEFAULT)
    if not state.is_held:
        left = [identity for identity in state.programs() if identity.find() is not None]
        if not left:
            say(f"nothing runs with the state folder {state.folder}")
            return
        end(left, LEFT_S)
        state.clear()
        say(f"stopped {len(left)} programs that a killed vispref up had left")
        return
    asked = False
    deadline = time.monotonic() + PATIENCE_S
    while state.is_held:
        asked = asked or _ask(state)
        if time.monotonic() > deadline:
            raise OperationError(
                f"vispref up (process {state.read().get('pid', '?')}) has not ended in "
                f"{PATIENCE_S:.0f} s; its logs are in {state.logs}. Kill it, then vispref down "
                "stops what it leaves"
            )
        time.sleep(0.1)
    say("stopped")


def _ask(state: State) -> bool:
    """Whether the process that holds the folder could be told; it writes its number at once."""
    found = state.read()
    if "pid" not in found:
        return False
    process = Identity(found["pid"], found["created"]).find()
    if process is not None:
        process.send_signal(signal.SIGTERM)
    return process is not None
