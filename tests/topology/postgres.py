"""A PostgreSQL of the machine's own package, in a folder and on a port of its own."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGED = Path("/usr/lib/postgresql")  # where Debian keeps the programs, by version
USER = "prefect"


def binaries():
    """The newest version's programs, or a skip that says what is missing."""
    found = sorted(PACKAGED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip(f"no PostgreSQL server is installed under {PACKAGED}")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and runuser is not installed")
    return found[-1].parent


def as_its_user(*command):
    """The server refuses to run as root."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    return [*prefix, *map(str, command)]


@contextmanager
def postgres(port):
    """Runs it with a database `prefect`, without a password, on loopback alone."""
    programs = binaries()
    with tempfile.TemporaryDirectory(prefix="vispref-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        data = folder / "data"

        def run(program, *arguments):
            command = as_its_user(programs / program, *arguments)
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

        run("initdb", "-D", data, "-U", USER, "--auth=trust", "-E", "UTF8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            run("createdb", "-h", folder, "-p", port, "-U", USER, USER)
            yield
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
