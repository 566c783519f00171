import pytest

from experiments.campaign import Outcome
from experiments.plan import ARMS, METHODS, RATES, SYMMPO, Job, grid
from experiments.report import CAVEAT, PAIR_COLUMNS, TEST_COLUMNS, difference, plot, tables

CHOSEN = 1e-4


def scores(job):
    """SymMPO halves CHAIRs in every seed; without Pair it loses one point of coverage a seed."""
    values = dict.fromkeys((*TEST_COLUMNS, *PAIR_COLUMNS), 50.0)
    values["chair_s"] = 40.0 + job.seed - (20.0 if job.arm.startswith("SymMPO") else 0.0)
    values["coverage"] = 90.0 + job.seed - (job.arm == "SymMPO without Pair") * (1 + job.seed / 10)
    return values


@pytest.fixture
def outcome():
    validation = {job: scores(job) for job in grid(ARMS.values(), RATES, range(3))}
    test = {job: found for job, found in validation.items() if job.rate == CHOSEN}
    base = dict.fromkeys((*TEST_COLUMNS, *PAIR_COLUMNS), 77.0)
    return Outcome(base, base, validation, test, dict.fromkeys(ARMS, CHOSEN))


def test_the_table_has_mean_and_interval_of_every_arm(outcome):
    text = tables(outcome)
    assert CAVEAT in text
    for name in ARMS:
        assert f"| {name} | 1e-04 | 3 |" in text
    # seeds 0, 1, 2 give 20, 21, 22: standard error 1 / sqrt 3 times 4.303
    assert "| SymMPO | 1e-04 | 3 | 21.0 ± 2.5 |" in text
    assert "| base |  |  | 77.0 |" in text


def test_a_terms_effect_is_paired_by_seed_and_marked_where_it_shows(outcome):
    found = difference(outcome.test, "coverage", SYMMPO.name, "SymMPO without Pair")
    assert found.mean == pytest.approx(1.1)
    line = next(line for line in tables(outcome).splitlines() if line.startswith("| Pair |"))
    assert "**+1.10 ± 0.25**" in line
    margin = next(line for line in tables(outcome).splitlines() if line.startswith("| Margin |"))
    assert "**" not in margin


def test_the_plot_is_written_and_small(outcome, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `plots`")
    plot(outcome, tmp_path / "plot.png")
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 150_000


def test_methods_come_in_the_papers_order(outcome):
    lines = [
        line.split("|")[1].strip() for line in tables(outcome).splitlines() if "| 1e-04 |" in line
    ]
    assert lines[: len(METHODS)] == [arm.name for arm in METHODS]
    assert Job("DPO", CHOSEN, 0) in outcome.test
