"""Versions that install together and do not work together. Pure: what is installed is given.

Each rule was met in practice; `pip check` passes on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from operate.findings import Finding, fail, ok

TORCHVISION_AHEAD = 15  # torch 2.13 goes with torchvision 0.28, and so on


@dataclass(frozen=True)
class Rule:
    """Broken when every package named is installed in a version of its set."""

    packages: Mapping[str, str]
    trouble: str
    remedy: str


RULES = (
    Rule(
        {"prefect": "<3.8", "fastapi": ">=0.137"},
        "Prefect 3.7's server crashes on this fastapi",
        "uv pip install 'fastapi>=0.133,<0.137'",
    ),
    Rule(
        {"prefect": ">=3.8", "fastapi": ">=0.160"},
        "Prefect's server crashes on this fastapi (Body() and min_items)",
        "uv pip install prefect==3.7.7 'fastapi>=0.133,<0.137'",
    ),
    Rule(
        {"prefect": ">=3", "sqlalchemy": ">=2.1"},
        "cron schedules silently stop firing",
        "uv pip install 'sqlalchemy<2.1'",
    ),
    Rule(
        {"prefect": ">=3.8", "vllm": ">=0.32,<0.33"},
        "vLLM wants an older fastapi than this Prefect",
        "uv pip install prefect==3.7.7",
    ),
    Rule(
        {"transformers": ">=5.20"},
        "this project's model code was not tried with it",
        "uv pip install 'transformers>=5.16.1,<5.20'",
    ),
    Rule(
        {"transformers": "<5.16.1"},
        "this project's model code needs a newer one",
        "uv pip install 'transformers>=5.16.1,<5.20'",
    ),
    Rule(
        {"faiss-cpu": ">=0", "faiss-gpu": ">=0"},
        "both provide `faiss`, and which one is imported is chance",
        "uninstall both, then install one: the extra cpu or gpu",
    ),
)


def check_versions(installed: Mapping[str, str]) -> list[Finding]:
    """A finding a broken rule, or one that says all is well. installed: names to versions."""
    versions = {name: Version(text) for name, text in installed.items()}
    found = [
        fail("versions", f"{_named(rule.packages, versions)}: {rule.trouble}", rule.remedy)
        for rule in RULES
        if all(
            name in versions and SpecifierSet(wanted).contains(versions[name], prereleases=True)
            for name, wanted in rule.packages.items()
        )
    ]
    found += _torch_pair(versions)
    if "faiss-cpu" not in versions and "faiss-gpu" not in versions:
        found.append(fail("versions", "no faiss is installed", "install the extra cpu or gpu"))
    return found or [ok("versions", "none that are known not to work together")]


def _named(names: Mapping[str, str], versions: Mapping[str, Version]) -> str:
    return " with ".join(f"{name} {versions[name]}" for name in names)


def _torch_pair(versions: Mapping[str, Version]) -> list[Finding]:
    """torchvision is compiled against one torch; another fails on import with torchvision::nms."""
    if "torch" not in versions or "torchvision" not in versions:
        return []
    torch, vision = versions["torch"], versions["torchvision"]
    together = vision.minor == torch.minor + TORCHVISION_AHEAD or torch.major != 2
    if together and torch.local == vision.local:
        return []
    return [
        fail(
            "versions",
            f"torch {torch} with torchvision {vision}: builds that do not belong together, "
            "`operator torchvision::nms does not exist` on import",
            "install both in one go with uv and -c constraints.txt (plain pip may take a CPU "
            "build of one alone)",
        )
    ]
