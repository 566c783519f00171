"""Reads an input of any format to records, one at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from config.errors import InputError
from sources.csv_format import csv_columns, csv_rows
from sources.datasets_format import datasets_rows, open_datasets
from sources.folder_format import folder_rows, glob_rows
from sources.json_format import json_rows, jsonl_rows
from sources.parquet_format import parquet_columns, parquet_rows
from sources.records import Record
from sources.rows import BadRow, Plan, Row, has_needed, plan_rows, records_of
from sources.spec import (
    InputSpec,
    check_spec,
    detect_format,
    image_folder,
    prompts_of,
)

__all__ = ["InputSpec", "image_folder", "read_records"]

LOOK_AHEAD = 1000  # rows of JSON looked at, at most, to find which keys they use


def read_records(spec: InputSpec) -> Iterator[Record]:
    """Every (image, prompt) of the input, in its order; bad ones too, each with its problem.

    Memory is bounded by a batch of rows, except that a JSON list and a glob's names are held
    whole. Raises InputError, at the first record, where the input as a whole cannot be read, and
    at the end where it holds no record.
    """
    check_spec(spec)
    form = detect_format(spec)
    if spec.split is not None and form != "datasets":
        raise InputError(f"split={spec.split!r}: only a `datasets` directory has splits")
    plan, rows = _open(spec, form)
    position = -1
    for position, row in enumerate(rows):
        yield from records_of(row, position, plan)
    if position < 0:
        raise InputError(f"{spec.location} holds no record: expected at least one image")


def _open(spec: InputSpec, form: str) -> tuple[Plan, Iterator[Row]]:
    path = Path(spec.location)
    if form in ("folder", "glob"):
        return _open_images(spec, form)
    if form == "csv":
        return _plan(spec, csv_columns(path)), csv_rows(path)
    if form == "parquet":
        plan = _plan(spec, parquet_columns(path))
        return plan, parquet_rows(path, plan.columns)
    if form == "datasets":
        dataset = open_datasets(path, spec.split)
        plan = _plan(spec, dataset.column_names)
        return plan, datasets_rows(dataset, plan.columns)
    return _look_ahead(spec, jsonl_rows(path) if form == "jsonl" else json_rows(path))


def _open_images(spec: InputSpec, form: str) -> tuple[Plan, Iterator[Row]]:
    if spec.columns:
        raise InputError(f"columns are given, but {spec.location} is no table: leave them out")
    if spec.images_root is not None:
        raise InputError(f"images_root is given, but {spec.location} names images: leave it out")
    prompts = prompts_of(spec)
    if not prompts:
        raise InputError(
            f"{spec.location} holds images without prompts: give prompts or prompts_file"
        )
    base = image_folder(spec)
    plan = Plan(spec.location, base, image="image", prompt=None, id=None, prompts=prompts)
    if form == "glob":
        return plan, glob_rows(spec.location)
    leave_out = None if spec.prompts_file is None else Path(os.path.abspath(spec.prompts_file))
    return plan, folder_rows(base, leave_out)


def _plan(spec: InputSpec, found: list[str]) -> Plan:
    return plan_rows(spec.location, image_folder(spec), found, spec.columns, prompts_of(spec))


def _look_ahead(spec: InputSpec, rows: Iterator[Row]) -> tuple[Plan, Iterator[Row]]:
    """JSON has no header: rows are held back until they have shown the columns needed."""
    given_prompts = bool(prompts_of(spec))
    held: list[Row] = []
    found: dict[str, None] = {}
    for row in itertools.islice(rows, LOOK_AHEAD):
        held.append(row)
        if not isinstance(row, BadRow):
            found.update(dict.fromkeys(row))
            if has_needed(found, spec.columns, given_prompts):
                break
    if not held:
        raise InputError(f"{spec.location} holds no record: expected at least one")
    if not found and isinstance(held[0], BadRow):
        raise InputError(
            f"{spec.location}: none of the first {len(held)} records is an object with keys; "
            f"the first: {held[0].message}"
        )
    return _plan(spec, list(found)), itertools.chain(held, rows)
