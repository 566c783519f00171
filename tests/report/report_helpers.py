"""Reports to draw, and a browser to draw them in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report.content import Claim, Lengths, Made, Pair, Picture, Report, Stage

DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501 - a PNG of one pixel
EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)> & \"quoted\""


def a_pair(**changes) -> Pair:
    claims = [
        Claim("A red circle is there.", "consistent", "a red circle", 3),
        Claim("A blue star is there.", "inconsistent", "", 1),
        Claim("It is lovely.", "unverifiable", "", 2),
    ]
    pair = Pair(
        "abcdef0123456789", "train", "What is there?", "A red circle.", "A blue star.",
        "A cross.", Picture(DOT, 1, 1), Picture(DOT, 1, 1), 0.97, None, claims,
    )  # fmt: skip
    return replace(pair, **changes)


def a_report(*pairs: Pair, **changes) -> Report:
    stage = Stage("caption", "captioner", 1200, 3, 1203, 5_000_000, 70_000, 1.25)
    report = Report(
        "tiny", "d" * 32, "r" * 32, 1000, 900, {"train": 800, "validation": 100},
        {"no_rejected": 60, "length_ratio": 40}, pairs or (a_pair(),),
        [Lengths("chosen", {5: 10, 9: 4}), Lengths("rejected", {5: 1, 61: 2})],
        [stage], [Made("caption", "captioner", "f" * 32), Made("mine", "", "e" * 32)],
    )  # fmt: skip
    return replace(report, **changes)


class Page(HTMLParser):
    """The elements of a page, as (tag, attributes), and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f"{data} "

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(k.rstrip("_")) == v for k, v in wanted.items())
        ]


def chromium(*arguments: str, profile: Path) -> str:
    """Runs headless Chromium, offline; gives its output. Skips where it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium is installed: the page is not looked at in a browser")
    flags = (
        (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
            "--disable-background-networking --disable-component-update --disable-sync "
            "--host-resolver-rules=MAP_*_~NOTFOUND"
        )
        .replace("MAP_*_", "MAP * ")
        .split(" --")
    )
    options = [flag if flag.startswith("--") else f"--{flag}" for flag in flags]
    done = subprocess.run(
        [program, *options, f"--user-data-dir={profile}", *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout
