"""A GPU is lent to one training at a time on its machine. A killed run gives it back by itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from config.errors import RecipeError

POLL_S = 1.0
NO_GPU = "cpu"  # a machine without one lends itself


@dataclass(frozen=True)
class Lent:
    """GPUs by index, and the descriptors of their locks: whoever holds those holds the GPUs."""

    gpus: tuple[str, ...]
    locks: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.gpus == (NO_GPU,) else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


def visible_gpus() -> tuple[str, ...]:
    """The machine's GPUs by index, of those that CUDA_VISIBLE_DEVICES leaves; NO_GPU if none."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return tuple(name.strip() for name in said.split(",") if name.strip()) or (NO_GPU,)
    command = shutil.which("nvidia-smi")
    if command is None:
        return (NO_GPU,)
    found = subprocess.run(  # noqa: S603 - the driver's own tool
        [command, "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return tuple(found.stdout.split()) if found.returncode == 0 and found.stdout else (NO_GPU,)


def lock_folder() -> Path:
    """One a user of the machine: trainings of different users do not see each other."""
    folder = Path(tempfile.gettempdir()) / f"vispref-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def lent(
    count: int,
    gpus: tuple[str, ...],
    folder: Path,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Lent]:
    """`count` of the GPUs, waited for while others hold them. Raises RecipeError for too many."""
    if gpus == (NO_GPU,):
        count = 1
    if count > len(gpus):
        raise RecipeError(
            f"the recipe asks for {count} processes and this machine lends {len(gpus)} GPUs: "
            f"override processes={len(gpus)}, or run it on a larger machine"
        )
    said = False
    while (found := _take(count, gpus, folder)) is None:
        if not said:
            say(f"all GPUs are in use by other trainings; waiting for {count}")
            said = True
        sleep(POLL_S)
    try:
        yield found
    finally:
        for lock in found.locks:
            os.close(lock)


def _take(count: int, gpus: tuple[str, ...], folder: Path) -> Lent | None:
    """All or none: a run that waits for its second GPU keeps nobody from the first."""
    taken: dict[str, int] = {}
    for gpu in gpus:
        lock = os.open(folder / f"{gpu}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        taken[gpu] = lock
        if len(taken) == count:
            return Lent(tuple(taken), tuple(taken.values()))
    for lock in taken.values():
        os.close(lock)
    return None
