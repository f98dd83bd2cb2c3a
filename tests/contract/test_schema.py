"""The schema, the model and what is written on the wire agree, field by field."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schema_check

from killtrace import model, wire

TIME_NS = 1_795_446_251_123_456_789
CHILD = model.Process(
    pid=4716,
    tid=4717,
    ns_pid=12,
    start_time_ns=TIME_NS,
    comm="sleep",
    exe="/usr/bin/sleep",
    cmdline=("sleep", "100"),
    title="napping",
    ppid=1,
    uid=1000,
    user="alice",
    loginuid=1000,
    session_id=3,
    sid=4700,
    tty="/dev/pts/0",
    cgroup="/user.slice",
    unit="user.slice",
    container=model.Container("podman", "0123", "web", "nginx", None, None),
    ancestors=(model.Ancestor(1, "systemd", ("/sbin/init",)), model.Ancestor(2, None)),
)
BARE = model.Process(pid=1)


def _origin(kind: str) -> model.Origin:
    return model.Origin(kind, "a sentence", True, {})


def _signal(kind: str, **changes: Any) -> model.Signal:
    whole: dict[str, Any] = {
        "time_ns": TIME_NS,
        "signo": 15,
        "code": 0,
        "result": "delivered",
        "scope": "process",
        "sender": CHILD,
        "target": BARE,
        "origin": _origin(kind),
    }
    return model.Signal(**{**whole, **changes})


def _records() -> Iterator[model.Record]:
    for kind in model.ORIGIN_KINDS:
        yield _signal(kind)
    yield _signal("timer", sender=None, signo=36, code=-60, repeats=3)
    yield _signal("process", code=-77, result="already_pending", scope="thread")
    brief = model.SignalBrief(15, TIME_NS, "ignored", 7, "pkill", "process", 2)
    anonymous = model.SignalBrief(9, TIME_NS, "delivered", None, None, "oom")
    cause = model.Cause(15, TIME_NS, CHILD, _origin("process"))
    yield model.Death(TIME_NS, CHILD, model.Exit(9, None, True), cause, (brief, anonymous), 0)
    yield model.Death(TIME_NS, BARE, model.Exit(None, 255), None)
    yield model.Attempt(TIME_NS, 9, "EPERM", "kill", CHILD, None)
    yield model.Attempt(TIME_NS, 15, "ESRCH", "tgkill", CHILD, BARE)
    yield model.Lost(TIME_NS, 1, "signals")


RECORDS = [wire.record_to_json(record) for record in _records()]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema_check.schema())


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_what_is_written_is_valid(record: dict[str, Any]) -> None:
    parsed = json.loads(json.dumps(record))
    assert schema_check.faults(parsed) == []
    jsonschema.Draft7Validator(schema_check.schema()).validate(parsed)


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_no_field_may_be_missing(record: dict[str, Any]) -> None:
    for path in _fields(record):
        cut = copy.deepcopy(record)
        holder: Any = cut
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
        assert schema_check.faults(cut), f"nobody misses {path}"


def _fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from _fields(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _fields(inner, (*path, index))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("signo",), 65),
        (("signo",), "15"),
        (("signal",), "TERM"),
        (("time",), "2026-11-23T15:04:11Z"),
        (("result",), "handled"),
        (("scope",), "group"),
        (("code",), "SI_user"),
        (("repeats",), -1),
        (("repeats",), None),
        (("target",), None),
        (("target", "pid"), 0),
        (("target", "cmdline"), "sleep 100"),
        (("origin", "kind"), "martian"),
        (("origin", "summary"), ""),
        (("origin", "certain"), None),
        (("type",), "sign"),
    ],
    ids=str,
)
def test_what_is_wrong_is_found(path: tuple[str, ...], value: object) -> None:
    record = copy.deepcopy(RECORDS[0])
    assert schema_check.faults(record) == []
    holder = record
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    assert schema_check.faults(record)


def test_an_exit_is_by_signal_or_with_status() -> None:
    death = wire.record_to_json(model.Death(TIME_NS, BARE, model.Exit(9, 1), None))
    assert schema_check.faults(death)


def test_fields_may_be_added() -> None:
    assert schema_check.faults({**RECORDS[0], "later": 1}) == []


def test_origins_carry_what_the_model_says() -> None:
    definitions = schema_check.schema()["definitions"]
    by_schema = {
        name.partition("-")[2]: tuple(definition["properties"])
        for name, definition in definitions.items()
        if name.startswith("origin-")
    }
    assert by_schema == dict(model.ORIGIN_FIELDS)


def test_memory_carries_what_the_model_says() -> None:
    assert tuple(schema_check.schema()["definitions"]["memory"]["properties"]) == (
        model.MEMORY_FIELDS
    )


@pytest.mark.parametrize(
    ("definition", "of_model"),
    [
        ("process", model.Process),
        ("container", model.Container),
        ("ancestor", model.Ancestor),
        ("signal", model.Signal),
        ("death", model.Death),
        ("attempt", model.Attempt),
        ("lost", model.Lost),
    ],
)
def test_records_carry_what_the_model_says(definition: str, of_model: Any) -> None:
    said = set(schema_check.schema()["definitions"][definition]["properties"])
    renamed = {"time_ns": "time", "start_time_ns": "start_time"}
    fields = {renamed.get(field.name, field.name) for field in dataclasses.fields(of_model)}
    derived = {"type", "signal"} if definition != "process" else set()
    assert fields <= said
    assert said - fields <= derived


def test_every_object_requires_all_that_it_names() -> None:
    for name, definition in schema_check.schema()["definitions"].items():
        if name != "origin":
            assert definition["required"] == list(definition["properties"]), name
