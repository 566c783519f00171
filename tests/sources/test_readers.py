from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import InputError
from config.settings import Inputs
from sources.json_format import jsonl_rows
from sources.load import ImageLoader
from sources.parquet_format import BATCH_ROWS
from sources.readers import LOOK_AHEAD, InputSpec, image_folder, read_records
from sources.records import BytesRef, PathRef, Record
from sources.rows import BadRow

PHOTOS = Path(__file__).parents[2].parent / "shared" / "photos"
STORED = (("PNG", "a.png"), ("BMP", None))


def read(location: Path | str, **options: Any) -> list[Record]:
    return list(read_records(InputSpec(location=str(location), **options)))


def reasons(records: list[Record]) -> list[str | None]:
    return [record.problem and record.problem[0] for record in records]


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    return path


class TestFolder:
    def test_every_file_is_asked_every_prompt_in_the_order_of_names(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        for name in ("c.png", "a.png", "b/z.png", "b/notes.md"):
            (tmp_path / name).touch()
        records = read(tmp_path, prompts=("A?", "B?"))
        images = [r.image.path.relative_to(tmp_path) for r in records if r.item == 0]
        assert [str(path) for path in images] == ["a.png", "b/notes.md", "b/z.png", "c.png"]
        assert [(r.position, r.item, r.prompt) for r in records[:3]] == [
            (0, 0, "A?"),
            (0, 1, "B?"),
            (1, 0, "A?"),
        ]
        assert reasons(records) == [None] * 8

    def test_the_prompts_file_in_the_folder_is_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        (tmp_path / "p.txt").write_text("A?\n")
        odd = f"{tmp_path}/../{tmp_path.name}/p.txt"
        assert len(read(tmp_path, prompts_file=odd)) == 1

    def test_a_linked_folder_is_named_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "loop").symlink_to(tmp_path)
        (record,) = read(tmp_path / "in", prompts=("A?",))
        assert record.problem is not None
        assert "link to a folder" in record.problem[1]

    def test_a_name_that_is_not_utf8_is_a_bad_record(self, tmp_path: Path) -> None:
        try:
            (tmp_path / "a\udcff.png").touch()
        except OSError:
            pytest.skip("this file system keeps UTF-8 names only")
        assert reasons(read(tmp_path, prompts=("A?",))) == ["bad_record"]

    def test_a_glob_takes_the_files_that_match(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").mkdir()
        for name in ("b.png", "a.png", "c.txt", "x.png/deep.png"):
            (tmp_path / name).touch()
        flat = read(f"{tmp_path}/*.png", prompts=("A?",))
        deep = read(f"{tmp_path}/**/*.png", prompts=("A?",))
        assert [r.image.path.name for r in flat] == ["a.png", "b.png"]
        assert [r.image.path.name for r in deep] == ["a.png", "b.png", "deep.png"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "give prompts or prompts_file"),
            ({"prompts": ("A?",), "columns": {"image": "x"}}, "is no table"),
            ({"prompts": ("A?",), "images_root": "/x"}, "leave it out"),
            ({"prompts": ("A?",), "split": "train"}, "has splits"),
            ({"prompts": ("A?",)}, "holds no record"),
        ],
    )
    def test_what_makes_no_sense_is_an_error(
        self, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            read(tmp_path, **options)


class TestJsonLines:
    def test_a_broken_line_is_one_bad_record_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        path = write_lines(
            tmp_path / "rows.jsonl",
            {"image": "a.png", "prompt": "A?", "id": "x1"},
            '{"image": "b.png", ',
            "",
            "[1]",
            {"image": "c.png"},
            {"prompt": "D?"},
            {"image": "e.png", "prompt": "E?"},
        )
        records = read(path)
        assert [r.position for r in records] == [0, 1, 2, 3, 4, 5]
        assert reasons(records) == [None, "bad_record", "bad_record", "no_prompt", "no_image", None]
        assert "line 2 is not JSON" in (records[1].problem or ("", ""))[1]
        assert records[0].external_id == "x1"
        assert records[0].image == PathRef(tmp_path / "a.png")

    def test_images_root_moves_relative_paths(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", {"image": "a.png", "prompt": "A?"})
        (record,) = read(path, images_root="/pictures")
        assert record.image == PathRef(Path("/pictures/a.png"))

    def test_text_only_records_may_come_first(self, tmp_path: Path) -> None:
        path = write_lines(
            tmp_path / "rows.jsonl", *[{"prompt": "A?"}] * 3, {"image": "a.png", "prompt": "B?"}
        )
        assert reasons(read(path)) == ["no_image"] * 3 + [None]

    def test_absent_columns_are_an_error_that_names_those_found(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", {"file": "a.png", "prompt": "A?"})
        with pytest.raises(InputError, match="columns found: file, prompt"):
            read(path)
        assert reasons(read(path, columns={"image": "file"})) == [None]

    def test_a_file_of_nothing_but_garbage_is_an_error(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", "garbage", "more")
        with pytest.raises(InputError, match=r"none of the first 2 records .* line 1 is not JSON"):
            read(path)

    @pytest.mark.parametrize("text", ["", "\n\n"])
    def test_an_empty_file_is_an_error(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(text)
        with pytest.raises(InputError, match="holds no record"):
            read(path)

    def test_a_byte_order_mark_is_no_part_of_the_first_record(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"image": "a.png", "prompt": "A?"}\n')
        assert reasons(read(path)) == [None]

    def test_a_line_too_long_is_one_bad_row(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", {"a": 1}, {"a": "x" * 200}, {"a": 3})
        first, second, third = jsonl_rows(path, max_line_bytes=50)
        assert (first, third) == ({"a": 1}, {"a": 3})
        assert second == BadRow("line 2 is longer than 50 bytes")

    def test_it_is_read_as_it_is_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        line = {"image": "a.png", "prompt": "A?"}
        write_lines(path, *[line] * (LOOK_AHEAD * 3))
        records = read_records(InputSpec(location=str(path)))
        taken = list(itertools.islice(records, 2))
        path.write_text("")  # what was not read yet is gone
        assert len(taken) == 2
        assert len(list(records)) < LOOK_AHEAD * 3 - 2

    @settings(
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=5))
    def test_garbage_lines_never_stop_the_good_ones(
        self, tmp_path: Path, garbage: list[bytes]
    ) -> None:
        good = b'{"image": "a.png", "prompt": "A?"}'
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"\n".join([good, *garbage, good]))
        records = read(path)
        assert records[0].problem is None
        assert records[-1].problem is None
        # A byte order mark counts only at the very start; blank lines do not count at all.
        assert len(records) == 2 + sum(bool(line.strip()) for line in garbage)


class TestJson:
    def test_llava(self, tmp_path: Path) -> None:
        turns = [{"from": "human", "value": "Q\n<image>"}, {"from": "gpt", "value": "A"}]
        path = tmp_path / "llava.json"
        path.write_text(json.dumps([{"id": "1", "image": "a.jpg", "conversations": turns}, 5]))
        records = read(path)
        assert [r.prompt for r in records] == ["Q", None]
        assert reasons(records) == [None, "bad_record"]

    def test_a_byte_order_mark_is_no_part_of_the_list(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.json"
        path.write_bytes(b'\xef\xbb\xbf[{"image": "a.png", "prompt": "A?"}]')
        assert reasons(read(path)) == [None]

    def test_tpo_ignores_the_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "tpo.json"
        row = {"image_path": "a.jpg", "question": "Q?", "chosen": "c", "rejected": "r"}
        path.write_text(json.dumps([row]))
        (record,) = read(path)
        assert (record.prompt, record.image) == ("Q?", PathRef(tmp_path / "a.jpg"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [("{", "is not JSON"), ('{"a": 1}', "expected a list"), ("[]", "holds no record")],
    )
    def test_what_is_no_list_is_an_error(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "rows.json"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read(path)


class TestCsv:
    def test_quotes_line_ends_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        out = io.StringIO()
        csv.writer(out).writerows([["image", "prompt"], ["a.png", 'Two\nlines, "quoted"?']])
        path = tmp_path / "rows.csv"
        path.write_bytes(b"\xef\xbb\xbf" + out.getvalue().encode())
        (record,) = read(path)
        assert record.prompt == 'Two\nlines, "quoted"?'

    def test_bad_rows_are_named_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        long = b"x" * (csv.field_size_limit() + 1)
        path.write_bytes(
            b"image,prompt\na.png,A?,more\nb.png,\xff\n" + long + b",C?\n\n,D?\ne.png,\nf.png,F?\n"
        )
        records = read(path)
        assert reasons(records) == [*["bad_record"] * 3, "no_image", "no_prompt", None]
        assert "line 2 has 3 fields; expected 2" in (records[0].problem or ("", ""))[1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected a line of column names"),
            ("image,image,prompt\n", "stand twice in the header: image"),
            ("image,prompt\n", "holds no record"),
        ],
    )
    def test_a_header_is_needed(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read(path)


class TestParquet:
    def test_paths_urls_bytes_and_structs(self, tmp_path: Path) -> None:
        pq.write_table(
            pa.table({"image": [b"x", None], "prompt": ["A?"] * 2}), tmp_path / "b.parquet"
        )
        first, second = read(tmp_path / "b.parquet")
        assert first.image == BytesRef(b"x", None)
        assert reasons([first, second]) == [None, "no_image"]
        structs = [{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}]
        pq.write_table(
            pa.table({"image": structs, "prompts": [["A?", "B?"], []]}), tmp_path / "s.parquet"
        )
        records = read(tmp_path / "s.parquet")
        assert [r.image for r in records] == [BytesRef(b"x", "a.png")] * 2 + [
            PathRef(tmp_path / "b.png")
        ]
        assert reasons(records) == [None, None, "no_prompt"]

    def test_more_rows_than_a_batch_keep_their_order(self, tmp_path: Path) -> None:
        count = BATCH_ROWS * 2 + 3
        table = pa.table({"image": [f"{n}.png" for n in range(count)], "prompt": ["A?"] * count})
        pq.write_table(table, tmp_path / "rows.parquet")
        records = read(tmp_path / "rows.parquet")
        assert [r.image.path.stem for r in records] == [str(n) for n in range(count)]
        assert [r.position for r in records] == list(range(count))

    def test_a_text_that_is_not_utf8_spoils_its_own_row_only(self, tmp_path: Path) -> None:
        prompts = pa.array([b"A?", b"\xff", b"C?"]).view(pa.string())
        table = pa.table({"image": ["a", "b", "c"], "prompt": prompts})
        pq.write_table(table, tmp_path / "rows.parquet")
        assert reasons(read(tmp_path / "rows.parquet")) == [None, "bad_record", None]

    def test_a_column_that_stands_twice_is_an_error(self, tmp_path: Path) -> None:
        table = pa.table([["a.png"], ["x"], ["y"]], names=["image", "prompt", "prompt"])
        pq.write_table(table, tmp_path / "rows.parquet")
        with pytest.raises(InputError, match="stand twice: prompt"):
            read(tmp_path / "rows.parquet")

    def test_what_is_no_parquet_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "rows.parquet").write_bytes(b"PAR1 no")
        with pytest.raises(InputError, match="not a readable Parquet file"):
            read(tmp_path / "rows.parquet")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, encode: Callable[..., bytes]) -> Path:
    """Directories that `datasets` wrote: `one` (no splits), `many` and `single` (with splits)."""
    from datasets import Dataset, DatasetDict, Image

    images = [{"bytes": encode(form), "path": name} for form, name in STORED]
    rows = Dataset.from_dict({"image": images, "prompt": ["A?", "B?"]})
    rows = rows.cast_column("image", Image())
    folder = tmp_path_factory.mktemp("saved")
    rows.select([1, 0]).save_to_disk(folder / "one")
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(folder / "many")
    DatasetDict({"train": rows}).save_to_disk(folder / "single")
    return folder


class TestDatasets:
    def test_images_come_as_they_are_stored(
        self, saved: Path, encode: Callable[..., bytes]
    ) -> None:
        records = read(saved / "one")
        assert [(r.image, r.prompt) for r in records] == [
            (BytesRef(encode("BMP"), None), "B?"),
            (BytesRef(encode("PNG"), "a.png"), "A?"),
        ]

    def test_one_split_needs_no_choice_several_do(self, saved: Path) -> None:
        assert len(read(saved / "single")) == 2
        assert len(read(saved / "many", split="test")) == 1
        with pytest.raises(InputError, match=r"several splits \(train, test\)"):
            read(saved / "many")
        with pytest.raises(InputError, match="no split 'dev'; it has train, test"):
            read(saved / "many", split="dev")
        with pytest.raises(InputError, match="no splits to choose from"):
            read(saved / "one", split="train")

    @pytest.mark.parametrize(
        "names", [["../one/data-00000-of-00001.arrow"], ["/etc/passwd"], [".."], [3]]
    )
    def test_a_directory_that_names_files_elsewhere_is_refused(
        self, saved: Path, tmp_path: Path, names: list[Any]
    ) -> None:
        shutil.copytree(saved / "one", tmp_path / "one")
        shutil.copytree(saved / "one", tmp_path / "bad")
        state = json.loads((tmp_path / "bad/state.json").read_text())
        state["_data_files"] = [{"filename": name} for name in names]
        (tmp_path / "bad/state.json").write_text(json.dumps(state))
        with pytest.raises(InputError, match="inside the directory"):
            read(tmp_path / "bad")

    def test_a_split_elsewhere_is_refused(self, saved: Path, tmp_path: Path) -> None:
        shutil.copytree(saved / "one", tmp_path / "one")
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad/dataset_dict.json").write_text('{"splits": ["../one"]}')
        with pytest.raises(InputError, match="inside the directory"):
            read(tmp_path / "bad")

    def test_features_that_make_no_sense_are_an_error(self, saved: Path, tmp_path: Path) -> None:
        shutil.copytree(saved / "one", tmp_path / "bad")
        info = json.loads((tmp_path / "bad/dataset_info.json").read_text())
        (tmp_path / "bad/dataset_info.json").write_text(json.dumps({**info, "features": "x"}))
        with pytest.raises(InputError, match="not a readable `datasets` directory"):
            read(tmp_path / "bad")

    def test_a_broken_directory_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "state.json").write_text("{}")
        with pytest.raises(InputError, match="not a readable `datasets` directory"):
            read(tmp_path)


def test_the_photos_read_and_inspect() -> None:
    prompts = PHOTOS / "prompts.jsonl"
    if not prompts.is_file():
        pytest.skip(f"the photos are not at {PHOTOS}")
    spec = InputSpec(location=str(prompts))
    records = list(read_records(spec))
    assert len(records) == 426
    assert reasons(records) == [None] * 426
    assert len({record.external_id for record in records}) == 426
    loader = ImageLoader(Inputs(), [image_folder(spec)])
    paths = sorted({record.image.path for record in records})
    assert len(paths) == 118
    for path in paths:
        info = loader.load(PathRef(path)).info
        assert (info.format, info.suffix) == ("JPEG", ".jpg")
        assert min(info.width, info.height) > 0


def test_a_csv_in_utf_16_is_an_error_that_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("image,prompt\na.png,x\n".encode("utf-16"))
    with pytest.raises(InputError, match="not UTF-8") as refused:
        read(tmp_path / "rows.csv")
    assert str(refused.value).encode()


def test_what_cannot_be_read_in_a_folder_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "d.png").write_bytes(b"x")
    os.symlink("b", tmp_path / "b")  # a link to itself
    scandir = os.scandir

    def guarded(folder: Path) -> Any:
        if Path(folder).name == "c":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    records = read(tmp_path, prompts=("A?",))
    assert reasons(records) == ["bad_record", "bad_record", None]
