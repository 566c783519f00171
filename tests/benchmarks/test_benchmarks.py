"""What a benchmark's figures rest on: its own memory, and the faults that were asked for."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.arms import mock_server
from benchmarks.mock_server import planted
from benchmarks.usage import peak_mb

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_a_peak_is_the_process_s_own_and_not_its_parent_s():
    ballast = b"1" * 300 * 2**20
    started = subprocess.run(
        [sys.executable, "-c", "from benchmarks.usage import peak_mb; print(peak_mb())"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert peak_mb() > 300
    assert 1 < float(started.stdout) < 100
    assert len(ballast) == 300 * 2**20


@pytest.mark.parametrize("failing", [0.0, 0.1, 0.3, 0.5])
def test_the_share_of_faults_is_the_one_asked_for(failing):
    assert sum(planted(number, failing) for number in range(1, 1001)) == round(1000 * failing)


def test_the_server_counts_the_calls_of_all_its_processes():
    statuses = []
    with mock_server(0, 2, failing=0.5) as base_url:
        for _ in range(8):
            try:
                with urllib.request.urlopen(f"{base_url}/chat/completions", data=b"{}") as reply:
                    statuses.append(reply.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
        with urllib.request.urlopen(f"{base_url}/seen") as reply:
            seen = json.load(reply)
    assert sorted(statuses) == [200] * 4 + [500] * 4
    assert seen["calls"] == 8
    assert seen["seconds"] > 0
