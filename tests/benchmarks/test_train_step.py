"""The arms of the training benchmark do the same work, and its figures mean what they say."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import train_arm, train_setup, train_step
from benchmarks.train_setup import SIZES, Task, make_rows
from train.objectives import get

TASK = Task("naive", "jompo", "tiny", [10, 20], 2, 1, 1, "cpu", 1)
BENCHMARKS = Path(train_step.__file__).parent
TOLERANCE = 1e-3  # sums of up to 100 nats in fp32


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients(arm, objective):
    made = train_arm.Ours(replace(TASK, arm=arm, objective=objective))
    made.optimizer.zero_grad = lambda **_: None
    made.make_step(2, 20)()
    found = {name: p.grad for name, p in made.model.named_parameters() if p.requires_grad}
    return made.first, found


@pytest.mark.parametrize("objective", ["dpo", "symmpo", "jompo"])
def test_every_arm_has_the_same_log_probabilities_and_gradients(objective):
    arms = train_step.arms_of(objective, None)
    assert ("one batch" in arms) == (objective == "jompo")
    (first, expected), *others = [gradients(arm, objective) for arm in arms]
    assert len(first) == len(get(objective).combinations)
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 0
    for seen, found in others:
        for which, values in first.items():
            assert seen[which] == pytest.approx(values, abs=TOLERANCE)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).abs().max() < 1e-3 * largest, name


@pytest.mark.parametrize("arm", ["naive", "shared"])
def test_the_gpu_s_settings_change_precision_and_nothing_else(arm, monkeypatch):
    expected, _ = gradients(arm, "symmpo")
    small = replace(SIZES["tiny"], dtype=torch.bfloat16, checkpointing=True)
    monkeypatch.setitem(SIZES, "tiny", small)
    found, gradient = gradients(arm, "symmpo")
    for which, values in expected.items():
        assert found[which] == pytest.approx(values, abs=2)
    assert {g.dtype for g in gradient.values()} == {torch.float32}
    assert max(g.abs().max() for g in gradient.values()) > 0


def test_a_step_leaves_the_model_as_every_other_arm_has_it():
    arm = train_arm.Ours(TASK)
    step = arm.make_step(1, 10)
    before = {name: p.clone() for name, p in arm.model.named_parameters()}
    step()
    assert all(torch.equal(p, before[name]) for name, p in arm.model.named_parameters())


def test_only_the_language_model_s_adapter_trains():
    names = [n for n, p in train_arm.Ours(TASK).model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 7 * 2  # A and B of seven matrices in each of two layers
    assert all("language_model" in name and "lora" in name for name in names)


def test_rows_have_the_lengths_asked_for_and_their_images():
    rows = make_rows(SIZES["7b"], 2, 100)
    assert [len(ids) for row in rows for ids in row.responses.values()] == [
        110, 90, 100, 90, 110, 100,
    ]  # fmt: skip
    assert {len(row.prefix) for row in rows} == {576 + 60}
    assert not any((row.bare == 32063).any() for row in rows)
    tokens = {
        name: sum(train_arm.encode(row, "", get(name)).tokens for row in rows) / 2
        for name in ("dpo", "symmpo", "jompo")
    }
    assert tokens == {"dpo": 836, "symmpo": 1772, "jompo": 1932}


def test_an_arm_tells_a_line_for_each_length(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", json.dumps(asdict(TASK))])
    train_setup.main(train_arm.Ours, ("vispref",))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["length"] for line in lines] == [10, 20]
    for line in lines:
        assert line["seconds"] > 0
        assert 0 < line["rest_mb"] <= line["peak_mb"] + 1  # the kernel counts in batches
        assert len(line["log_probs"]) == 6


def in_this_process(command, env, **_):
    """The arm's own module, without the seconds an interpreter with torch takes to start."""
    assert command[:3] == [sys.executable, "-m", "benchmarks.train_arm"]
    assert env["OMP_NUM_THREADS"] == "1"
    told, before = io.StringIO(), sys.argv
    sys.argv = command[2:]
    try:
        with contextlib.redirect_stdout(told):
            runpy.run_path(str(BENCHMARKS / "train_arm.py"), run_name="__main__")
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(command, 0, told.getvalue(), "")


def test_the_table_compares_with_the_naive_arm(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", in_this_process)
    train_step.main(
        [
            "--size",
            "tiny",
            "--objectives",
            "dpo",
            "--lengths",
            "8",
            "--timed",
            "1",
            "--threads",
            "1",
        ]
    )
    header, _, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    table = [
        dict(zip(*([c.strip() for c in x.split("|")] for x in (header, row)), strict=True))
        for row in rows
    ]
    assert [row["arm"] for row in table] == ["naive", "shared", "shared, cached reference"]
    assert table[0]["x naive"] == "1.00"
    assert all(float(row["difference"]) < TOLERANCE for row in table)


def test_useful_work_has_every_prefix_once_and_a_cached_reference_not_at_all():
    size = SIZES["7b"]
    batch = [
        train_arm.encode(row, "", get("symmpo"))
        for row in make_rows(replace(size, image=28), 2, 10)
    ]
    live, cached = (train_step.flops(size, batch, flag) for flag in (False, True))
    tokens = sum(row.tokens for row in batch)
    # 6.5 billion weights, twice forward and once backward; attention adds little at this length
    assert live == pytest.approx(3 * 2 * 6.476e9 * tokens, rel=0.02)
    assert cached == pytest.approx(2 / 3 * live, rel=0.02)


def test_the_largest_batch_is_found():
    tried = []

    def make_step(rows):
        def step():
            tried.append(rows)
            if rows > 11:
                raise torch.OutOfMemoryError

        return step

    assert train_setup.largest_batch(make_step) == 11
    assert len(tried) < 10


@pytest.mark.parametrize("arguments", [["--largest"], ["--timed", "0"], ["--size", "huge"]])
def test_what_cannot_be_measured_is_refused(arguments):
    with pytest.raises(SystemExit):
        train_step.main(arguments)
