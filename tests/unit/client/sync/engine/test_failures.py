"""What cannot be done now is told, tried again ever more slowly, and stops nothing else."""

from __future__ import annotations

from client.errors import Refused, Unreachable
from client.fs.base import Path, ReadFile
from client.sync.engine.loop import State
from tests.kit.engine_rig import Rig


def test_a_full_account_is_told_tried_again_and_stops_nothing_else(rig: Rig) -> None:
    rig.run()
    error = {"code": "quota_exceeded", "message": "There is not enough space left in this account."}
    rig.api.fails["commit"] = rig.api.fails["announce"] = Refused(507, error)
    rig.write("mine", b"mine")
    rig.upload("theirs", b"theirs")
    rig.look()
    rig.run(lambda: rig.engine.status().state is State.BLOCKED)
    assert rig.engine.status().reason == error["message"]
    assert rig.files()["theirs"] == b"theirs"
    assert not rig.engine.is_settled()
    rig.api.fails.clear()
    rig.run()
    assert rig.engine.status().state is State.IN_SYNC


def test_a_link_in_the_way_of_a_file_makes_way(rig: Rig) -> None:
    rig.run()
    rig.disk.user.symlink(("a.txt",))
    rig.upload("a.txt", b"theirs")
    rig.settle()
    assert rig.files()["a.txt"] == b"theirs"
    assert [path for path, _ in rig.conflicts] == ["a.txt"]


def test_transfers_that_fail_while_the_feed_works_are_known_to_fail_until_one_is_carried_out(rig: Rig) -> None:
    rig.upload("theirs", b"theirs")
    rig.api.fails = dict.fromkeys(("download", "get_block", "blocks", "stream"), Unreachable(url="x", reason="no"))
    began = rig.clock.at

    def fails_for_long() -> bool:
        since = rig.engine.failing_since()
        return since is not None and rig.clock.at - since > 20

    rig.run(fails_for_long)
    assert rig.engine.failing_since() is not None
    assert rig.clock.at - began > 20
    rig.api.fails.clear()
    rig.run()
    assert rig.engine.failing_since() is None
    assert rig.files() == {"theirs": b"theirs"}


def test_a_file_that_is_written_whenever_it_is_sent_is_told_as_being_written(rig: Rig) -> None:
    read = rig.fs.open

    def open_after_a_program_wrote(path: Path) -> ReadFile:
        if path == ("log",):
            rig.write("log", b"%f" % rig.clock.at)
        return read(path)

    rig.fs.open = open_after_a_program_wrote  # type: ignore[method-assign]  # a program is at work
    rig.write("log", b"first")
    rig.look()
    rig.run(rig.engine.is_waiting)
    assert rig.engine.state() == (
        State.BLOCKED,
        "log is being written by a program; it is brought up to date when that has ended.",
    )
    rig.fs.open = read  # type: ignore[method-assign]  # for this rig only
    rig.run()
    assert {path.strip("/") for path in rig.remote()} == {"log"}
