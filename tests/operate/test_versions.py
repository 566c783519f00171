import pytest

from operate.check_machine import installed
from operate.versions import check_versions

GOOD = {
    "prefect": "3.7.7", "fastapi": "0.136.3", "sqlalchemy": "2.0.58", "transformers": "5.19.0",
    "torch": "2.13.0", "torchvision": "0.28.0", "faiss-cpu": "1.15.1", "vllm": "0.32.0",
}  # fmt: skip


def levels(**changes):
    found = {**GOOD, **{name.replace("_", "-"): version for name, version in changes.items()}}
    return check_versions({name: version for name, version in found.items() if version})


def test_the_tested_set_passes():
    (finding,) = levels()
    assert finding.level == "ok"


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        ({"fastapi": "0.137.0"}, "crashes", "fastapi>=0.133,<0.137"),
        ({"prefect": "3.8.8", "fastapi": "0.160.1", "vllm": None}, "crashes", "prefect==3.7.7"),
        ({"prefect": "3.8.8"}, "vLLM", "prefect==3.7.7"),
        ({"sqlalchemy": "2.1.0"}, "cron", "sqlalchemy<2.1"),
        ({"transformers": "5.20.0"}, "not tried", "<5.20"),
        ({"transformers": "5.16.0"}, "newer", ">=5.16.1"),
        ({"torchvision": "0.27.0"}, "torchvision::nms", "uv"),
        ({"torch": "2.13.0+cpu"}, "torchvision::nms", "uv"),
        ({"faiss_gpu": "1.15.1"}, "both provide", "one"),
        ({"faiss_cpu": None}, "no faiss", "extra cpu or gpu"),
    ],
)
def test_a_set_that_does_not_work_is_named_with_its_remedy(changes, words, remedy):
    (finding,) = levels(**changes)
    assert finding.level == "fail"
    assert words in finding.found
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"},
        {"torch": "2.12.1", "torchvision": "0.27.1"},
        {"prefect": "3.8.8", "vllm": None},
        {"faiss_cpu": None, "faiss_gpu": "1.15.1"},
        {"torchvision": None},
    ],
)
def test_sets_that_belong_together_pass(changes):
    assert [finding.level for finding in levels(**changes)] == ["ok"]


def test_every_broken_rule_is_told():
    assert len(levels(fastapi="0.137.0", sqlalchemy="2.1.0")) == 2


def test_this_environment_is_read():
    assert installed()["prefect"].startswith("3.")
