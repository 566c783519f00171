"""What `vispref doctor` looks at on this machine: disks, GPUs, packages, the response cache."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.errors import StorageError
from config.settings import Settings
from operate.findings import Finding, fail, ok, warn
from operate.machine import gpu_names
from operate.versions import check_versions
from storage.responses import ResponseCache
from storage.root import Root

PACKAGES = (
    "fastapi", "faiss-cpu", "faiss-gpu", "prefect", "sqlalchemy", "torch", "torchvision",
    "transformers", "vllm",
)  # fmt: skip
GB = 10**9
LOW_GB, FULL_GB = 20, 2
IMPORT_S = 180.0
# In a process of its own: a broken build may end the interpreter instead of raising.
TORCH = """
import json, torch, torchvision
print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))
"""
FAISS = "import faiss, json; print(json.dumps([faiss.__version__]))"


def installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_packages() -> Iterator[Finding]:
    yield from check_versions(installed())
    try:
        (version,) = _imported(FAISS)
        yield ok("faiss", f"imports, {version}")
    except StorageError as error:
        yield fail("faiss", str(error), "install the extra cpu or gpu, exactly one")


def check_gpus() -> Iterator[Finding]:
    names = gpu_names()
    try:
        version, cuda, available = _imported(TORCH)
    except StorageError as error:
        yield fail("torch", str(error), "install torch and torchvision with uv -c constraints.txt")
        return
    build = f"torch {version}, " + (f"CUDA {cuda}" if cuda else "a CPU build")
    if available:
        yield ok("GPU", f"{'; '.join(names) or 'seen by torch'} ({build})")
    elif not names:
        yield warn(
            "GPU",
            f"none is seen by the driver's nvidia-smi ({build})",
            "embedding and training run on the CPU, slowly; on a GPU machine install the driver",
        )
    else:
        why = "the driver is too old for it" if cuda else "it has no CUDA"
        yield fail(
            "GPU",
            f"{'; '.join(names)}, which {build} does not see: perhaps {why}",
            "update the driver" if cuda else "install torch with uv, extra gpu",
        )


def _imported(code: str) -> list[object]:
    """What the code prints as JSON. Raises StorageError with the last line it died with."""
    try:
        done = subprocess.run(  # noqa: S603 - our own code, no shell
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StorageError(f"does not import within {IMPORT_S:.0f} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}"]
        raise StorageError(f"does not import: {last[0][:300]}")
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_places(settings: Settings, root: Root | None) -> Iterator[Finding]:
    """Room and leave to write where a run writes."""
    if root is not None and not root.is_local:
        yield _remote(root)
    elif root is not None:
        yield _place("root", Path(root.path))
    yield _place("cache", settings.cache_dir)
    yield _place("scratch", settings.scratch_dir or Path(tempfile.gettempdir()))


def _remote(root: Root) -> Finding:
    try:
        there = root.exists("root.json")
    except Exception as error:  # noqa: BLE001 - every store has errors of its own
        return fail("root", f"{root.url}: {error}", "check the URL and the store's credentials")
    return ok("root", f"{root.url}: {'a root' if there else 'reachable, nothing built yet'}")


def _place(what: str, folder: Path) -> Finding:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fail(what, f"{folder}: {there} cannot be written", "give leave, or name another")
    free = shutil.disk_usage(there).free / GB
    found = f"{folder}: {free:,.0f} GB free"
    if free < FULL_GB:
        return fail(what, found, f"make room: under {FULL_GB} GB a run stops on a full disk")
    if free < LOW_GB:
        return warn(what, found, "room for a small dataset only")
    return ok(what, found)


def check_cache(settings: Settings) -> Finding:
    try:
        ResponseCache(settings.cache_dir).close()
    except (StorageError, OSError) as error:
        return fail(
            "response cache", str(error), "free the file or set VISPREF_CACHE_DIR to a local folder"
        )
    return ok("response cache", f"opens for writing in {settings.cache_dir}")
