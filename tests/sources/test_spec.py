from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import InputError
from sources.spec import InputSpec, check_spec, detect_format, image_folder, prompts_of


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
def test_a_file_is_known_by_its_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix.upper()}"
    path.touch()
    assert detect_format(InputSpec(location=str(path))) == suffix


@pytest.mark.parametrize("mark", ["dataset_dict.json", "dataset_info.json", "state.json"])
def test_a_directory_that_datasets_saved_is_told_from_a_folder(tmp_path: Path, mark: str) -> None:
    assert detect_format(InputSpec(location=str(tmp_path))) == "folder"
    (tmp_path / mark).touch()
    assert detect_format(InputSpec(location=str(tmp_path))) == "datasets"


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set[1]"
    folder.mkdir()
    assert detect_format(InputSpec(location=str(folder))) == "folder"
    assert detect_format(InputSpec(location=str(tmp_path / "*.png"))) == "glob"


def test_a_location_that_is_nothing_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        detect_format(InputSpec(location=str(tmp_path / "gone.csv")))
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(InputError, match=r"'\.xlsx' is none of"):
        detect_format(InputSpec(location=str(tmp_path / "rows.xlsx")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec(location="x", format="tsv"), "expected auto or one of"),
        (InputSpec(location="x", columns={"picture": "p"}), "maps 'picture'"),
        (InputSpec(location="x", prompts=("a",), prompts_file="p.txt"), "give one of them"),
        (InputSpec(location="x", prompts=("a", " ")), "empty text"),
    ],
)
def test_a_spec_that_contradicts_itself_is_an_error(spec: InputSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_spec(spec)


def test_images_lie_beside_the_input_unless_a_root_is_given(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.touch()
    assert image_folder(InputSpec(location=str(table))) == tmp_path
    assert image_folder(InputSpec(location=str(tmp_path))) == tmp_path
    assert image_folder(InputSpec(location=str(table), images_root="/pics")) == Path("/pics")
    (tmp_path / "deep").mkdir()
    assert image_folder(InputSpec(location=f"{tmp_path}/deep/**/*.jpg")) == tmp_path / "deep"
    assert image_folder(InputSpec(location=f"{tmp_path}/d*/x.jpg")) == tmp_path


def test_prompts_come_from_the_spec_or_from_a_file(tmp_path: Path) -> None:
    text, listed = tmp_path / "p.txt", tmp_path / "p.json"
    text.write_bytes("\ufeffDescribe it.\r\n\r\n  What colour?\n".encode())
    listed.write_text('["One\\nline?", "Two?"]')
    assert prompts_of(InputSpec(location="x", prompts=("a",))) == ("a",)
    assert prompts_of(InputSpec(location="x", prompts_file=str(text))) == (
        "Describe it.",
        "What colour?",
    )
    assert prompts_of(InputSpec(location="x", prompts_file=str(listed))) == ("One\nline?", "Two?")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.json", b"[", "not JSON"),
        ("p.json", b'{"a": 1}', "expected a list of texts"),
        ("p.json", b'["a", 1]', "holds 1; expected texts"),
        ("p.md", b"a", r"expected \.txt"),
    ],
)
def test_a_prompts_file_that_is_not_one_is_an_error(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        prompts_of(InputSpec(location="x", prompts_file=str(tmp_path / name)))


def test_a_missing_prompts_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        prompts_of(InputSpec(location="x", prompts_file=str(tmp_path / "gone.txt")))
