import sqlite3

import pytest

from config.errors import StorageError
from storage.responses import ResponseCache, StoredAnswer


def answer(key, payer="root", cost=0.5):
    return StoredAnswer(key, "claims", f"text of {key}", "stop", "m", 10, 5, cost, False, payer)


def test_an_answer_is_there_for_every_process_that_opens_the_folder(tmp_path):
    first, second = ResponseCache(tmp_path), ResponseCache(tmp_path)
    first.put(answer("a"))
    assert second.get("a") == answer("a")
    assert second.get("b") is None
    first.close()
    second.close()


def test_many_are_found_in_one_look(tmp_path):
    cache = ResponseCache(tmp_path)
    for number in range(1200):
        cache.put(answer(str(number)))
    found = cache.get_many(str(n) for n in range(600, 1800))
    assert sorted(map(int, found)) == list(range(600, 1200))
    cache.close()


def test_every_payment_counts_even_where_the_first_answer_stands(tmp_path):
    cache = ResponseCache(tmp_path)
    cache.put(answer("a"))
    cache.put(answer("a", payer="other", cost=0.25))
    assert cache.get("a").payer == "root"
    assert cache.spent("root") == (0.5, 15)
    assert cache.spent("other") == (0.25, 15)
    assert cache.spent("nobody") == (0.0, 0)
    cache.close()


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path):
    (tmp_path / "responses.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match="VISPREF_CACHE_DIR"):
        ResponseCache(tmp_path)


def test_a_full_disk_is_one_clear_error(tmp_path):
    cache = ResponseCache(tmp_path)
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for number in range(100):
            cache.put(answer(str(number)))

    with pytest.raises(StorageError, match="full"):
        fill()
    assert not cache._connection.in_transaction
    cache.close()
    assert (
        sqlite3.connect(tmp_path / "responses.sqlite").execute("PRAGMA integrity_check").fetchone()
    )
