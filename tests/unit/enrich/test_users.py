from __future__ import annotations

import threading
import time
from pathlib import Path

from killtrace.enrich.users import Users, parse_passwd


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_passwd() -> None:
    content = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/\nbroken\n:x:5:5::/:\na:x:z:1::/:\n"
    assert parse_passwd(content) == {0: ("root", "/root")}


def test_a_local_user_asks_no_service(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("alice:x:1000:1000::/home/alice:/bin/sh\n")
    asked: list[int] = []
    users = Users(passwd, lookup=lambda uid: asked.append(uid))
    assert users.name(1000) == "alice"
    assert users.home(1000) == Path("/home/alice")
    assert users.name(None) is None
    assert asked == []


def test_the_service_is_asked_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def lookup(uid: int) -> str:
        asked.append(uid)
        return "ldapuser"

    users = Users(tmp_path / "none", lookup=lookup)
    assert [users.name(70000), users.name(70000)] == ["ldapuser", "ldapuser"]
    assert asked == [70000]
    assert users.home(70000) is None


def test_an_unknown_user_is_asked_for_again_later(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("")
    clock = Clock()
    asked: list[int] = []
    users = Users(passwd, lookup=lambda uid: asked.append(uid), monotonic=clock)
    assert users.name(1001) is None
    assert users.name(1001) is None
    assert asked == [1001]
    passwd.write_text("bob:x:1001:1001::/home/bob:/bin/sh\n")
    assert users.name(1001) is None
    clock.now += 31
    assert users.name(1001) == "bob"
    assert asked == [1001]


def test_a_slow_service_holds_nobody_up(tmp_path: Path) -> None:
    answer = threading.Event()
    answered = threading.Event()

    def slow(uid: int) -> str:
        answer.wait(10)
        answered.set()
        return "slow"

    users = Users(tmp_path / "none", lookup=slow, patience_s=0.01)
    start = time.monotonic()
    assert users.name(5) is None
    assert time.monotonic() - start < 5
    answer.set()
    assert answered.wait(10)
    deadline = time.monotonic() + 10
    while users.name(5) != "slow" and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert users.name(5) == "slow"
