"""What `vispref up` runs, in one folder: a lock, state.json and the logs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.errors import OperationError
from operate.processes import Identity

DEFAULT = Path(os.path.expanduser("~")) / ".local" / "state" / "vispref"


class State:
    """The folder. Only the holder of its lock writes state.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder: two `up`s in one folder would fight. Raises OperationError if held.

        The lock is the operating system's and ends with its process, however that ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OperationError(
                    f"vispref up already runs with the state folder {self.folder} (process "
                    f"{self.read().get('pid', '?')}); stop it with vispref down, or name another "
                    "folder with --state"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> Identity | None:
        """The `up` that lives and wrote state.json; asking does not touch the lock."""
        found = self.read()
        holder = Identity(found["pid"], found["created"]) if "pid" in found else None
        return holder if holder is not None and holder.find() is not None else None

    def read(self) -> dict[str, Any]:
        """What was last written; empty where nothing was."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def write(self, value: dict[str, Any]) -> None:
        """Replaces state.json in one step."""
        temporary = self.folder / ".state.json"
        temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")
        temporary.replace(self.folder / "state.json")

    def clear(self) -> None:
        (self.folder / "state.json").unlink(missing_ok=True)

    def programs(self) -> list[Identity]:
        """The processes that the last `up` started, whether they run or not."""
        found = self.read().get("programs", {}).values()
        return [Identity(p["pid"], p["created"]) for p in found if p.get("pid") is not None]
