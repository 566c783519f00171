"""`vispref up` in a process of its own, with a folder, ports and an environment of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
COMMAND_S = 240
POLL_S = 0.1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, patience_s=240):
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        time.sleep(POLL_S)
    return found


class Machine:
    """What the tests of one `up` share. `environment` is that of every command."""

    def __init__(self, folder, **environment):
        self.state = folder / "state"
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "VISPREF"))
        }
        self.environment = {
            **inherited,
            "VISPREF_CACHE_DIR": str(folder / "cache"),
            "VISPREF_BATCH_ROWS": "16",
            "COLUMNS": "200",
            **environment,
        }

    def command(self, *words):
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, words), "--state", str(self.state)],
            cwd=REPOSITORY, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip

    def up(self):
        done = self.command("up", "--detach", "--port", self.port)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def read(self):
        return json.loads((self.state / "state.json").read_text(encoding="utf-8"))

    def program(self, name):
        return self.read()["programs"][name]

    def processes(self):
        """Every process of this machine: all of them have its folder in their words or environment."""
        found = []
        for process in psutil.process_iter():
            try:
                texts = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if process.pid != os.getpid() and str(self.state) in "\n".join(texts):
                found.append(process)
        return found
