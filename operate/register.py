"""Tells Prefect's server what this project runs: pools, deployments, the automation for dead runs.

`python -m operate.register` does it for the server that PREFECT_API_URL names, and may be repeated.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prefect.client.orchestration import get_client

from config.errors import OperationError, VisprefError
from operate.machine import gpu_count
from operate.pools import install_automation, make_pools

PROJECT_FILE = "prefect.yaml"
DEPLOY_S = 300.0
LAST_LINES = 4  # of what Prefect said, where the reason stands


def project_file() -> Path:
    """prefect.yaml of the working directory, else of this clone. Raises OperationError."""
    places = (Path.cwd(), Path(__file__).parents[1])
    for place in places:
        if (place / PROJECT_FILE).is_file():
            return place / PROJECT_FILE
    raise OperationError(
        f"no {PROJECT_FILE} in {' or '.join(map(str, places))}: run the command in a clone of the "
        "project"
    )


def register(environment: Mapping[str, str]) -> None:
    """Pools, `prefect deploy --all`, automation. Raises OperationError with Prefect's last words.

    The server and its password are those this process's Prefect settings name.
    """
    file = project_file()
    asyncio.run(_pools(gpu_count()))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=file.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEPLOY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OperationError(
            f"prefect deploy --all with {file} did not end within {DEPLOY_S:.0f} s"
        ) from None
    if done.returncode != 0:
        words = " | ".join(line.strip() for line in done.stdout.splitlines()[-LAST_LINES:])
        raise OperationError(f"prefect deploy --all with {file} failed: {words}")
    asyncio.run(_automation())


async def _pools(gpus: int) -> None:
    async with get_client() as client:
        await make_pools(client, gpus)


async def _automation() -> None:
    async with get_client() as client:
        await install_automation(client)


def main() -> int:
    try:
        register(os.environ)
    except VisprefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("pools, deployments and automation are registered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
