"""Records survive the store: every field of every record, whatever stands in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import RECORDS, death, kills, signal

from killtrace import model
from killtrace.model import Record
from killtrace.store import codec
from killtrace.wire import record_to_json


def encoded(records: list[Record]) -> codec.Rows:
    encoder = codec.Encoder(codec.Numbers())
    for record in records:
        encoder.encode(record)
    return encoder.take_rows()


def fetcher(rows: codec.Rows) -> codec.Fetch:
    tables = {
        "place": {row[0]: row[1:] for row in rows.places},
        "lineage": {row[0]: row[1:] for row in rows.lineages},
        "origin": {row[0]: row[1:] for row in rows.origins},
        "process": {row[0]: row[1:] for row in rows.processes},
    }
    return lambda table, number: tables[table].get(number)


def decoded(rows: codec.Rows, layout: str | None = None) -> list[Record]:
    decoder = codec.Decoder(layout or codec.layout_text(), fetcher(rows))
    return [decoder.decode(row) for row in rows.records]


@given(st.lists(RECORDS, max_size=5))
@settings(max_examples=100, deadline=None)
def test_every_record_comes_back_as_it_was(records: list[Record]) -> None:
    back = decoded(encoded(records))
    assert [record_to_json(record) for record in back] == [
        record_to_json(record) for record in records
    ]


def test_what_sqlite_gets_is_text_that_it_can_hold() -> None:
    target = model.Process(7, comm="\udcff\0\x1b", cmdline=("\udc80",), cgroup="/\udcfe")
    rows = encoded([signal(target=target)])
    for row in [*rows.places, *rows.lineages, *rows.origins, *rows.processes, *rows.records]:
        assert all(value.isascii() for value in row if isinstance(value, str))


def test_parts_that_repeat_are_written_once() -> None:
    rows = encoded(list(kills(100)))
    assert len(rows.records) == 200
    assert len(rows.processes) == 101
    assert len(rows.places) == 2
    assert len(rows.lineages) == 1
    assert len(rows.origins) == 1


def test_a_pid_that_changed_in_any_way_is_another_process() -> None:
    first = signal()
    changed = signal(target=model.Process(**{**vars(first.target), "uid": 0}))
    back = decoded(encoded([first, changed, first]))
    assert [record.target.uid for record in back] == [1000, 0, 1000]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("part", "cls", "columns"),
    [
        ("process", model.Process, {"pid"}),
        ("origin", model.Origin, {"kind"}),
        (
            "signal",
            model.Signal,
            {"time_ns", "signo", "sender", "target", "origin", "repeats"},
        ),
        ("death", model.Death, {"time_ns", "process"}),
        ("attempt", model.Attempt, {"time_ns", "signo", "sender", "target"}),
        ("lost", model.Lost, {"time_ns"}),
        ("exit", model.Exit, set()),
        ("cause", model.Cause, {"sender", "origin"}),
        ("brief", model.SignalBrief, set()),
        ("container", model.Container, set()),
        ("ancestor", model.Ancestor, set()),
    ],
)
def test_every_field_of_the_model_has_its_place(part: str, cls: type, columns: set[str]) -> None:
    kept = set(codec.LAYOUT[part]) | columns
    if part == "process":
        kept |= set(codec.LAYOUT["place"]) | set(codec.LAYOUT["lineage"])
    assert kept == {field.name for field in fields(cls)}


def test_a_segment_of_an_older_version_lacks_a_field_and_is_read() -> None:
    rows = encoded([death(signal())])
    layout = json.loads(codec.layout_text())
    place = layout["brief"].index("repeats")
    del layout["brief"][place]
    number, *columns, body = rows.records[0]
    values = json.loads(body)
    del values[layout["death"].index("signals")][0][place]
    rows.records[0] = (number, *columns, json.dumps(values))  # type: ignore[assignment]
    assert decoded(rows, json.dumps(layout)) == [death(signal())]


def test_a_segment_of_a_later_version_has_a_field_more_and_is_read() -> None:
    rows = encoded([signal()])
    layout = json.loads(codec.layout_text())
    layout["signal"].append("colour")
    number, *columns, body = rows.records[0]
    rows.records[0] = (number, *columns, body[:-1] + ',"red"]')  # type: ignore[assignment]
    assert decoded(rows, json.dumps(layout)) == [signal()]


def _text(rows: codec.Rows, body: str) -> codec.Rows:
    number, *columns, _ = rows.records[0]
    rows.records[0] = (number, *columns, body)  # type: ignore[assignment]
    return rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: _text(rows, ""),
        lambda rows: _text(rows, "[1,2"),
        lambda rows: _text(rows, "[]"),
        lambda rows: _text(rows, '"delivered"'),
        lambda rows: _text(rows, "[" * 100_000),
        lambda rows: rows.processes.clear() or rows,
        lambda rows: rows.origins.clear() or rows,
        lambda rows: rows.lineages.__setitem__(0, (1, "[1]")) or rows,
        lambda rows: rows.places.__setitem__(0, (1, "{}")) or rows,
    ],
)
def test_damaged_rows_are_one_kind_of_error(damage: Callable[[codec.Rows], codec.Rows]) -> None:
    rows = damage(encoded([signal()]))
    with pytest.raises(codec.DecodeError):
        decoded(rows)


@pytest.mark.parametrize("layout", ["", "[]", "{}", '{"signal": 3}', "null"])
def test_a_damaged_layout_is_an_error(layout: str, tmp_path: Path) -> None:
    rows = encoded([signal()])
    with pytest.raises(codec.DecodeError):
        codec.Decoder(layout, fetcher(rows)).decode(rows.records[0])


def test_signal_64_fits_into_a_signed_column() -> None:
    assert codec.signal_bit(64) == -(1 << 63)
    assert codec.signal_bit(1) == 1
    assert codec.signal_bit(0) == 0
