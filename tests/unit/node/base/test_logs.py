from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from node.base.logs import setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_one_line_of_json_with_its_fields(stream: io.StringIO) -> None:
    logging.getLogger("node.test").info("shard.read", extra={"block": b"\x01\xff", "took_ms": 3, "lost": {1}})
    logging.getLogger("node.test").debug("not.shown")
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "info", "logger": "node.test", "event": "shard.read", "block": "01ff", "took_ms": 3, "lost": [1],
    }  # fmt: skip


def test_an_exception_stays_in_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("node.test").exception("job.failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]
