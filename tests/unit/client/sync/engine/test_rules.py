"""Rules that change while a client runs."""

from __future__ import annotations

from client.sync.local.selection import Selection
from tests.kit.engine_rig import Rig


def test_a_new_ignore_rule_forgets_and_deletes_nothing(rig: Rig) -> None:
    rig.write("a.log", b"log")
    rig.run()
    rig.selection = Selection("*.log\n")
    rig.write(".holdfastignore", b"*.log\n")
    rig.settle()
    assert rig.files()["a.log"] == b"log"
    assert any(path.strip("/") == "a.log" for path in rig.remote())
    rig.disk.user.delete(("a.log",))
    rig.settle()
    assert any(path.strip("/") == "a.log" for path in rig.remote())
