"""A dataset's root: a local folder or any fsspec URL, and where everything lies under it.

root.json                         the root's identity and format
images/ab/ab12...jpg              images by the SHA-256 of their bytes, unchanged
views/ab/ab12....png              upright RGB copies, only for images that need one
tables/<table>/<recipe>/part-*    one directory a table and stage recipe
recipes/<stage>/<digest>.json     what each recipe digest stands for
runs/<run>.json                   what a run was given, did and cost
datasets/<digest>/                preferences, decisions, card and, written last, manifest.json
current.json                      the newest run's stage digests; catalog.duckdb: views
leases/<number>.json              on remote roots: who writes, see storage/lease.py
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from config.errors import FileMissing, StorageError

FORMAT = 1
# Here a write is whole or not at all by itself, and folders are not made.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
KEPT_LISTINGS = 64
PASSWORD = re.compile(r"[^:/]+://[^/@]*:[^/@]*@")


def _faults() -> tuple[type[Exception], ...]:
    """What a filesystem raises for a fault. botocore's errors are no OSError."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)


class Root:
    """Paths are relative to the root and use forward slashes. I/O errors become StorageError."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        if PASSWORD.match(os.fspath(url)):
            raise StorageError(
                "the dataset's root is a URL with a password in it, which would be recorded: give "
                "it without, and the credentials in the environment (AWS_ACCESS_KEY_ID, ...)"
            )
        protocol, _ = fsspec.core.split_protocol(os.fspath(url))
        self._is_object_store = protocol in OBJECT_STORES
        # Listings are kept for DuckDB, which asks for a part's size again and again, but not all.
        options = {"max_paths": KEPT_LISTINGS} if self._is_object_store else {}
        try:
            self.fs, path = fsspec.core.url_to_fs(os.fspath(url), **options)
        except (ValueError, ImportError) as error:
            raise StorageError(
                f"dataset root {os.fspath(url)!r} cannot be opened: {error}. "
                "Give a folder or an fsspec URL such as s3://bucket/name (pip install vispref[s3])."
            ) from error
        self.path = str(path).rstrip("/")
        self.fence: Callable[[], None] | None = None  # raises once the root may be another's

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def url(self) -> str:
        """The root as a user and DuckDB write it."""
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    def full(self, relative: str) -> str:
        """The path the filesystem object takes. Refuses to leave the root."""
        if relative.startswith("/") or ".." in relative.split("/"):
            raise StorageError(f"path {relative!r} leaves the dataset's root")
        return f"{self.path}/{relative}"

    def url_of(self, relative: str) -> str:
        full = self.full(relative)
        return full if self.is_local else str(self.fs.unstrip_protocol(full))

    @cached_property
    def id(self) -> str:
        """This root's identity, made on first use; budgets are kept by it."""
        found = self.read_json("root.json")
        if found is None:
            found = {"id": uuid.uuid4().hex, "format": FORMAT}
            self.write_json("root.json", found)
        if found.get("format") != FORMAT:
            raise StorageError(
                f"{self.url} has format {found.get('format')!r}, this version reads {FORMAT}"
            )
        return str(found["id"])

    def exists(self, relative: str) -> bool:
        path = self.full(relative)
        self.fs.invalidate_cache(path)  # here and below: other processes write too
        try:
            return bool(self.fs.exists(path))
        except _faults() as error:
            raise StorageError(f"cannot read {self.url_of(relative)}: {error}") from error

    def read_bytes(self, relative: str) -> bytes:
        """Raises FileMissing where there is no such file, StorageError for any other fault."""
        try:
            data: bytes = self.fs.cat_file(self.full(relative))
        except FileNotFoundError as error:
            raise FileMissing(f"{self.url_of(relative)} is not there") from error
        except _faults() as error:
            raise StorageError(f"cannot read {self.url_of(relative)}: {error}") from error
        return data

    @contextlib.contextmanager
    def reading(self, relative: str) -> Iterator[IO[bytes]]:
        """The file, open for reading piece by piece. Raises as `read_bytes` does."""
        try:
            with self.fs.open(self.full(relative), "rb") as file:
                yield file
        except FileNotFoundError as error:
            raise FileMissing(f"{self.url_of(relative)} is not there") from error
        except _faults() as error:
            raise StorageError(f"cannot read {self.url_of(relative)}: {error}") from error

    def sha256(self, relative: str) -> str:
        """64 hex characters, read piece by piece. Raises as `read_bytes` does."""
        with self.reading(relative) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Writes to a temporary name in the same directory, then renames: all or nothing.

        Raises RootLost where this run no longer holds the root, StorageError for other faults.
        """
        self.check_held()
        self.put(relative, data)

    def check_held(self) -> None:
        if self.fence is not None:
            self.fence()

    def put(self, relative: str, data: bytes) -> None:
        """`write_bytes` for the lease itself, which asks nobody whether the root is held."""
        final = self.full(relative)
        parent, name = final.rsplit("/", 1)
        temporary = f"{parent}/.{name}.{os.getpid()}-{threading.get_ident()}-{uuid.uuid4().hex[:8]}"
        try:
            if self._is_object_store:
                self.fs.pipe_file(final, data)
                return
            self.fs.makedirs(parent, exist_ok=True)
            if self.is_local:
                _write_through(temporary, data)
                os.replace(temporary, final)
            else:
                self.fs.pipe_file(temporary, data)
                self.fs.mv(temporary, final)
        except _faults() as error:
            self._forget(temporary)
            raise StorageError(
                f"cannot write {self.url_of(relative)} ({len(data)} bytes): {error}. "
                "Nothing written before is lost; free space or mend the root, then run again."
            ) from error

    def create(self, relative: str, data: bytes) -> bool:
        """Writes a file that must not be there yet; False where it is. Asks nobody, as `put`.

        Raises StorageError where the filesystem cannot make a file exclusively.
        """
        path = self.full(relative)
        try:
            if not self._is_object_store:
                self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with self.fs.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except (ValueError, NotImplementedError) as error:
            raise StorageError(
                f"{self.url}: this filesystem cannot create a file exclusively ({error}), "
                "so two runs could not be kept apart; use a local folder, s3, gcs or abfs"
            ) from error
        except _faults() as error:
            raise StorageError(f"cannot write {self.url_of(relative)}: {error}") from error
        return True

    def _forget(self, path: str) -> None:
        if self._is_object_store:
            return
        try:
            self.fs.rm_file(path)
        except _faults():
            return  # the temporary was never made; the error that matters is being raised

    def read_json(self, relative: str) -> Any:
        """The parsed file, or None where there is none."""
        try:
            data = self.fs.cat_file(self.full(relative))
        except FileNotFoundError:
            return None
        except _faults() as error:
            raise StorageError(f"cannot read {self.url_of(relative)}: {error}") from error
        try:
            return json.loads(data)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"{self.url_of(relative)} is not JSON: {error}") from error

    def write_json(self, relative: str, value: Any) -> None:
        self.write_bytes(relative, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")

    def list(self, relative: str, suffix: str = "") -> list[str]:
        """Files straight under a directory, sorted, as root-relative paths; hidden ones left out."""
        directory = self.full(relative)
        self.fs.invalidate_cache(directory)
        try:
            found = self.fs.ls(directory, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except _faults() as error:
            raise StorageError(f"cannot list {self.url_of(relative)}: {error}") from error
        names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in found]
        return sorted(
            f"{relative}/{name}"
            for name in names
            if name.endswith(suffix) and not name.startswith(".")
        )

    def walk(self, relative: str) -> set[str]:
        """All files below a directory, as root-relative paths."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.full(relative))
        except FileNotFoundError:
            return set()
        except _faults() as error:
            raise StorageError(f"cannot list {self.url_of(relative)}: {error}") from error
        return {str(path)[len(self.path) + 1 :] for path in found}

    def folders(self) -> Iterator[tuple[str, list[str]]]:
        """Every folder under the root with the names of its files, hidden ones too, one by one."""
        self.fs.invalidate_cache()
        for folder, _, files in self.fs.walk(self.path):
            yield str(folder)[len(self.path) + 1 :], list(files)

    def age_s(self, relative: str) -> float:
        """Seconds since a file was written. Raises as `read_bytes` does."""
        try:
            return time.time() - float(self.fs.modified(self.full(relative)).timestamp())
        except FileNotFoundError as error:
            raise FileMissing(f"{self.url_of(relative)} is not there") from error
        except (*_faults(), NotImplementedError) as error:
            raise StorageError(
                f"cannot tell the age of {self.url_of(relative)}: {error}"
            ) from error

    def rename(self, relative: str, new: str) -> None:
        """Moves a file; one that has the new name is replaced.

        Raises RootLost where this run no longer holds the root, FileMissing, StorageError.
        """
        self.check_held()
        old, final = self.full(relative), self.full(new)
        try:
            self.fs.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
            if self.is_local:
                os.replace(old, final)
            else:
                self.fs.mv(old, final)
        except FileNotFoundError as error:
            raise FileMissing(f"{self.url_of(relative)} is not there") from error
        except _faults() as error:
            raise StorageError(f"cannot move {self.url_of(relative)}: {error}") from error

    def remove(self, relative: str) -> None:
        self.check_held()
        try:
            self.fs.rm(self.full(relative), recursive=True)
        except FileNotFoundError:
            return
        except _faults() as error:
            raise StorageError(f"cannot remove {self.url_of(relative)}: {error}") from error


def _write_through(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
