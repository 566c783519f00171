import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.digest import canonical_json, digest, image_digest, seed_of, text_digest


def test_canonical_json_is_sorted_without_spaces_in_utf8():
    assert canonical_json({"b": 1, "a": ["é"]}) == '{"a":["é"],"b":1}'.encode()


def test_nan_has_no_digest():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


def test_text_and_image_digests_are_sha256():
    assert text_digest("a") == hashlib.sha256(b"a").hexdigest()[:32]
    assert image_digest(b"a") == hashlib.sha256(b"a").hexdigest()


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_keys_does_not_matter(value):
    assert digest(value) == digest(dict(reversed(list(value.items()))))


def test_seeds_are_31_bits_and_differ_by_sample():
    seeds = {seed_of(0, "row", k) for k in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
