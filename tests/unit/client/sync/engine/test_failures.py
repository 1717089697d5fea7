"""What cannot be done now is told, tried again ever more slowly, and stops nothing else."""

from __future__ import annotations

from client.errors import Refused, Unreachable
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
