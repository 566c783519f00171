import io

import pytest
from rich.console import Console

from cli.progress import human_count, human_dollars, plain_line, progress_table
from stages.base import Progress
from stages.chain import STAGES


def busy():
    progress = Progress()
    for name in STAGES:
        progress.begin(name, 1_234_567, note="118 of 118 images have\nan m' [and a bracket]")
        progress.add(
            name, done=98_765, failed=12, calls=98_777, cached=3_000,
            prompt_tokens=1_500_000_000, completion_tokens=1, cost_usd=4321.6,
        )  # fmt: skip
    progress.stages["scan"].started -= 36_000
    return progress


def lines(progress, width):
    out = io.StringIO()
    Console(file=out, width=width).print(progress_table(progress, width))
    return out.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_each_stage_is_one_whole_line_at_any_width(width):
    shown = lines(busy(), width)
    assert [line.split()[0] for line in shown] == ["stage", *STAGES]
    assert all(len(line) <= width for line in shown)
    for column in ("done", "failed", "tokens", "cost", "left"):
        assert column in shown[0].split()
    for line in shown[1:]:
        numbers = line.split("118 of")[0]
        assert "…" not in numbers
        assert "$4,322" in numbers
        assert "1.5G" in numbers


def test_a_wide_terminal_has_all_columns_and_the_note():
    shown = lines(busy(), 160)
    for column in ("of", "rows/s", "calls", "cached", "took"):
        assert column in shown[0].split()
    assert "118 of 118 images have an m' [and a bracket]" in shown[1]


def test_a_stage_that_waits_shows_its_name_alone():
    progress = Progress()
    progress.begin("ingest", 3)
    assert [line.split() for line in lines(progress, 80)][2:] == [[name] for name in STAGES[1:]]


def test_a_plain_line_is_one_line():
    stage = busy().stages["scan"]
    assert "\n" not in plain_line(stage)
    assert "rows/s" in plain_line(stage)


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0"), (98_765, "98,765"), (123_456, "123k"), (1_000_000, "1.0M"), (2_500_000_000, "2.5G")],
)
def test_counts_stay_short(count, told):
    assert human_count(count) == told


@pytest.mark.parametrize(
    ("dollars", "told"),
    [(0, "$0.0000"), (0.00123, "$0.0012"), (12.34, "$12.34"), (4321.6, "$4,322")],
)
def test_dollars_keep_what_matters(dollars, told):
    assert human_dollars(dollars) == told
