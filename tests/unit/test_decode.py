"""Bytes to records: whole ones, cut ones, hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import packed

from killtrace import decode


def _signal_bytes() -> bytes:
    stack = (0xFFFFFFFF81000000).to_bytes(8, "little") * 2
    ancestor = packed(decode.ANCESTOR_FIELDS, {"start_time_ns": 7, "tgid": 1, "comm": b"init"})
    sender = packed(
        decode.TASK_FIELDS,
        {
            "tgid": 50,
            "tid": 51,
            "comm": b"kill",
            "ancestors_len": 32,
            "cgroup_len": 5,
            "exe_len": 9,
            "args_len": 8,
            "tty": b"pts3",
        },
    )
    target = packed(decode.TASK_FIELDS, {"tgid": 100, "tid": 100, "comm": b"victim"})
    return (
        packed(decode.HEADER_FIELDS, {"time_ns": 9, "cpu": 1, "type": decode.SIGNAL})
        + packed(decode.SIGNAL_FIELDS, {"signo": 15, "code": -6, "group": 1, "stack_len": 16})
        + sender
        + target
        + stack
        + ancestor
        + b"b\0aa\0"
        + b"/bin/kill"
        + b"kill\x00100"
    )  # fmt: skip


def test_a_signal() -> None:
    record = decode.decode(_signal_bytes())
    assert isinstance(record, decode.RawSignal)
    assert (record.time_ns, record.cpu, record.signo, record.code) == (9, 1, 15, -6)
    assert record.stack == (0xFFFFFFFF81000000,) * 2
    assert record.sender.ancestors == (decode.RawAncestor(7, 1, b"init"),)
    assert record.sender.cgroup == b"/aa/b"
    assert record.sender.exe == b"/bin/kill"
    assert record.sender.args == b"kill\x00100"
    assert record.sender.tty == b"pts3"
    assert record.target.tgid == 100 and record.target.cgroup == b"/"


def test_padding_behind_a_record_is_left_alone() -> None:
    assert decode.decode(_signal_bytes() + b"\xff" * 7) == decode.decode(_signal_bytes())


@given(st.integers(0, len(_signal_bytes()) - 1))
def test_a_cut_record_is_refused(length: int) -> None:
    with pytest.raises(decode.DecodeError):
        decode.decode(_signal_bytes()[:length])


@given(st.binary(max_size=3000))
def test_noise_is_refused_or_decoded(data: bytes) -> None:
    try:
        decode.decode(data)
    except decode.DecodeError:
        pass


def test_an_unknown_type() -> None:
    with pytest.raises(decode.DecodeError, match="type 9"):
        decode.decode(packed(decode.HEADER_FIELDS, {"type": 9}))


def test_a_death_and_a_refusal() -> None:
    head = packed(decode.HEADER_FIELDS, {"type": decode.DEATH})
    task = packed(decode.TASK_FIELDS, {"tgid": 5})
    death = decode.decode(head + packed(decode.DEATH_FIELDS, {"exit_code": 0x8F}) + task)
    assert isinstance(death, decode.RawDeath) and death.exit_code == 0x8F
    head = packed(decode.HEADER_FIELDS, {"type": decode.ATTEMPT})
    fields = packed(decode.ATTEMPT_FIELDS, {"error": -1, "target_id": -7, "signo": 9})
    attempt = decode.decode(head + fields + task)
    assert isinstance(attempt, decode.RawAttempt)
    assert (attempt.error, attempt.target_id) == (1, -7)
