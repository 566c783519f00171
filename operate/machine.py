"""What this machine has."""

from __future__ import annotations

import shutil
import socket
import subprocess

NVIDIA_S = 20.0


def gpu_names() -> list[str]:
    """NVIDIA's GPUs as the driver lists them; empty where there is no driver or it fails.

    Asked of the driver's own program: importing torch takes seconds and memory.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - the path was looked up, no shell
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def gpu_count() -> int:
    return len(gpu_names())


def port_is_free(host: str, port: int) -> bool:
    """Whether a server can be bound there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
