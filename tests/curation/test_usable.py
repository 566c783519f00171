from curation.usable import why_unusable

LIMITS = {"min_rows": 10, "max_drop_rate": 0.5}


def test_enough_rows_and_few_drops_are_usable():
    assert why_unusable(20, 10, **LIMITS) is None  # exactly half was dropped


def test_too_few_rows_are_named():
    assert "9 rows were kept, fewer than the 10" in why_unusable(9, 9, **LIMITS)


def test_too_many_drops_are_named():
    assert "51.0% of 100 rows were dropped" in why_unusable(100, 49, **LIMITS)


def test_no_rows_at_all_are_unusable():
    assert why_unusable(0, 0, **LIMITS) is not None
