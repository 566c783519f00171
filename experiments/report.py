"""The experiment's tables in Markdown, and its plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.campaign import Outcome, Results
from experiments.plan import ABLATIONS, METHODS, STRONG_GAMMA, SYMMPO, Job
from experiments.statistics import Estimate, estimate, paired

CAVEAT = (
    "This is a planted fault in a small world of drawn scenes, with models of 0.7 million "
    "parameters. It shows that the machinery works; it replicates no paper's figures."
)
TEST_COLUMNS = {
    "chair_s": "CHAIRs %",
    "chair_i": "CHAIRi %",
    "coverage": "coverage %",
    "exact": "exact %",
    "yes_no": "yes/no %",
    "others": "other questions %",
}
TERM_COLUMNS = ("chair_s", "coverage", "exact", "yes_no", "others")
PAIR_COLUMNS = {
    "drift": "drift of y_w, training rows",
    "held_out_drift": "drift of y_w, held-out rows",
    "apart": "told apart by s, %",
    "apart_policy": "told apart by log pi, %",
    "gap": "\\|D - D'\\|",
}


def tables(outcome: Outcome) -> str:
    """The report: methods, what is measured on pairs, terms, and rates, as Markdown."""
    tested = sorted({job.arm for job in outcome.test}, key=_order)
    pairs = {job: outcome.validation[job] for job in outcome.test}
    parts = [
        CAVEAT,
        "## Test scenes, at the rate chosen on validation scenes",
        _table(outcome.test, outcome.base_test, TEST_COLUMNS, tested, rate=True),
        "## Held-out pairs, the same runs (nats where no % is named)",
        _table(pairs, outcome.base_validation, PAIR_COLUMNS, tested),
        "## What each of SymMPO's terms changes",
        _intro(outcome),
        terms(outcome.test, pairs),
        *_at_highest(outcome),
        "## Validation scenes, by learning rate",
        by_rate(outcome),
    ]
    return "\n\n".join(parts) + "\n"


def _table(
    results: Results,
    base: Mapping[str, Any],
    columns: Mapping[str, str],
    arms: Sequence[str],
    rate: bool = False,
) -> str:
    head = ["", *(["rate"] if rate else []), "runs", *columns.values()]
    lines = [["base", *([""] if rate else []), "", *(_number(base[key]) for key in columns)]]
    for arm in arms:
        runs = {job: scores for job, scores in results.items() if job.arm == arm}
        first = [f"{next(iter(runs)).rate:.0e}"] if rate else []
        told = [shown(estimate([scores[key] for scores in runs.values()])) for key in columns]
        lines.append([arm, *first, str(len(runs)), *told])
    return markdown(head, lines)


def terms(scores: Results, pairs: Results) -> str:
    """SymMPO minus the arm without a term, by seed, at one rate; bold where 0 is outside."""
    told = set.intersection(*(set(found) for found in scores.values()))
    columns = {key: scores for key in TERM_COLUMNS if key in told}
    columns |= dict.fromkeys(PAIR_COLUMNS, pairs)
    names = {**TEST_COLUMNS, **PAIR_COLUMNS}
    lines = []
    for arm in ABLATIONS:
        found = {key: difference(of, key, SYMMPO.name, arm.name) for key, of in columns.items()}
        n = max((one.n for one in found.values() if one is not None), default=0)
        lines.append([str(arm.ablates), str(n), *(_marked(one) for one in found.values())])
    return markdown(["SymMPO with it, minus without", "pairs", *(names[k] for k in columns)], lines)


def difference(results: Results, key: str, ours: str, theirs: str) -> Estimate | None:
    """ours - theirs paired by seed, over runs of one rate each; None where no seed is shared."""
    found = [
        {job.seed: scores[key] for job, scores in results.items() if job.arm == arm}
        for arm in (ours, theirs)
    ]
    return paired(*found)


def by_rate(outcome: Outcome) -> str:
    columns = ("chair_s", "coverage", "exact", "yes_no")
    lines = []
    for arm in sorted({job.arm for job in outcome.validation}, key=_order):
        for rate in sorted({job.rate for job in outcome.validation if job.arm == arm}):
            runs = _of(outcome.validation, arm, rate)
            told = [shown(estimate([scores[key] for scores in runs])) for key in columns]
            mark = " (chosen)" if outcome.rates[arm] == rate else ""
            lines.append([arm, f"{rate:.0e}{mark}", str(len(runs)), *told])
    base = outcome.base_validation
    lines.insert(0, ["base", "", "", *(_number(base[key]) for key in columns)])
    return markdown(["", "rate", "runs", *(TEST_COLUMNS[key] for key in columns)], lines)


def plot(outcome: Outcome, path: Path) -> None:
    """CHAIRs against coverage on validation scenes: a line for each method, a point for each rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.8, 4.6))
    base = outcome.base_validation
    axes.plot(base["coverage"], base["chair_s"], "k*", markersize=12, label="base")
    shapes = dict(zip(sorted({job.rate for job in outcome.validation}), "os^DvPX", strict=False))
    for number, arm in enumerate(METHODS):
        rates = sorted({job.rate for job in outcome.validation if job.arm == arm.name})
        points = [_of(outcome.validation, arm.name, rate) for rate in rates]
        x = [estimate([s["coverage"] for s in runs]).mean for runs in points]
        y = [estimate([s["chair_s"] for s in runs]).mean for runs in points]
        axes.plot(x, y, "-", color=f"C{number}", label=arm.name)
        for rate, a, b in zip(rates, x, y, strict=True):
            axes.plot(a, b, shapes[rate], color=f"C{number}")
    for rate, shape in shapes.items():
        axes.plot([], [], shape, color="grey", label=f"rate {rate:.0e}")
    axes.set_yscale("symlog", linthresh=1)  # the cured ones lie close together
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage % (right is better)")
    axes.set_ylabel("CHAIRs %, linear below 1 (low is better)")
    axes.set_title("Validation scenes of the miniature world, by learning rate", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def shown(value: Estimate) -> str:
    """Two runs have an interval too, of 9 standard deviations each way, that tells nobody anything."""
    if value.n < 3:
        return f"{value.mean:.1f}"
    return f"{value.mean:.1f} ± {value.half:.1f}"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _intro(outcome: Outcome) -> str:
    rate = outcome.rates[SYMMPO.name]
    return (
        f"All at SymMPO's rate, {rate:.0e}, on the same scenes; differences are paired by seed, with "
        "95 % intervals. Bold: 0 lies outside, one comparison at a time. gamma is 1e-4, and "
        f"{STRONG_GAMMA:.0e} at 100 x. A seed decides the order of the rows and nothing else."
    )


def _at_highest(outcome: Outcome) -> list[str]:
    """The same at the highest rate, where the ablations were run there."""
    rate = max(job.rate for job in outcome.validation)
    runs = {job: scores for job, scores in outcome.validation.items() if job.rate == rate}
    ablated = {arm.name for arm in ABLATIONS} & {job.arm for job in runs}
    if rate == outcome.rates[SYMMPO.name] or not ablated:
        return []
    return [f"The same at {rate:.0e}, on validation scenes:", terms(runs, runs)]


def _marked(value: Estimate | None) -> str:
    """Bold where the interval excludes 0; fewer than three pairs have none, see `shown`."""
    if value is None:
        return ""
    if value.n < 3:
        return f"{value.mean:+.2f}"
    text = f"{value.mean:+.2f} ± {value.half:.2f}"
    return f"**{text}**" if value.excludes_zero else text


def _of(results: Mapping[Job, Mapping[str, Any]], arm: str, rate: float) -> list[Mapping[str, Any]]:
    return [scores for job, scores in sorted(results.items()) if (job.arm, job.rate) == (arm, rate)]


def _order(arm: str) -> int:
    return [one.name for one in (*METHODS, *ABLATIONS)].index(arm)


def _number(value: float) -> str:
    return f"{value:.1f}"
