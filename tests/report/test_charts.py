import pytest

from report.charts import BINS, HEIGHT, WIDTH, histograms, median
from report.content import Lengths


def test_bars_hold_every_text_in_bins_of_one_scale():
    lengths = [Lengths("chosen", {0: 1, 7: 40, 99: 2}), Lengths("rejected", {7: 10})]
    chosen, rejected = histograms(lengths)
    assert sum(bar.count for bar in chosen.bars) == chosen.texts == 43
    assert chosen.last == rejected.last
    assert len({bar.width for one in (chosen, rejected) for bar in one.bars}) == 1
    tall, low = max(bar.height for bar in chosen.bars), rejected.bars[0].height
    assert tall == HEIGHT
    assert low == pytest.approx(HEIGHT / 4)
    for bar in (*chosen.bars, *rejected.bars):
        assert 0 <= bar.x < bar.x + bar.width <= WIDTH + 1e-9
        assert bar.y + bar.height == pytest.approx(HEIGHT)


@pytest.mark.parametrize("longest", [1, 23, 24, 25, 400, 100_000])
def test_the_longest_text_has_a_bar_whatever_its_length(longest):
    [found] = histograms([Lengths("chosen", {1: 1, longest: 1})])
    assert sum(bar.count for bar in found.bars) == len({1, longest})
    assert found.bars[-1].low <= longest <= found.bars[-1].high <= found.last
    assert round(WIDTH / found.bars[0].width) <= BINS


def test_a_single_text_among_many_is_still_seen():
    [found] = histograms([Lengths("chosen", {1: 1, 50: 10_000})])
    assert min(bar.height for bar in found.bars) >= 1


def test_no_texts_make_no_chart():
    assert histograms([Lengths("chosen", {})]) == []
    with pytest.raises(ValueError, match="at least one"):
        median({})


def test_the_median_is_the_lower_middle():
    assert [median({1: 1, 2: 1}), median({3: 1, 9: 2}), median({4: 5})] == [1, 9, 4]
