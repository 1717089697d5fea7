"""`sync --once` beside a program that never stops writing to a file: everything else is done, and that file is told."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.kit.api import User
from tests.kit.sync_device import Device, check_equal, read_service_tree


def test_once_ends_beside_a_file_that_is_always_being_written(user: User, tmp_path: Path) -> None:
    ann = Device(user, tmp_path, "ann")
    ann.put("other", b"other")
    log = ann.put("log", bytes(1 << 20))
    enough = threading.Event()

    def write() -> None:
        with log.open("r+b", buffering=0) as file:
            while not enough.wait(0.0005):
                file.write(b"x")

    program = threading.Thread(target=write)
    program.start()
    try:
        told = ann.once(expect=6)
    finally:
        enough.set()
        program.join()
    assert "log" in told.document["reason"]
    assert "writ" in told.stderr, "that a program writes to it"
    assert set(read_service_tree(user)) >= {"other"}
    ann.once()
    check_equal(user, ann)
