import pytest

from config.errors import RowError
from curation.advice import advice


@pytest.mark.parametrize("kind", sorted(kind.__name__ for kind in RowError.__subclasses__()))
def test_every_class_of_error_has_advice_of_its_own(kind):
    assert advice("rewrite", kind) != advice("rewrite", "Unheard")


def test_a_refused_record_is_mended_in_the_input():
    assert "reading the input" in advice("ingest", "truncated")
