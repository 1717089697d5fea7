"""One and two of six nodes dead under 4+2: reads go on; writes go on with one dead and are refused with two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import Appliance, Session, short_folder, wait_until
from tests.kit.faults import make_random

SIZES = {"empty": 0, "one": 1, "small": 40_000, "block": 4 * 1024 * 1024, "several": 13_000_000}


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with short_folder() as folder, Appliance(folder / "data", "--workers", "1", "--no-restart") as appliance:
        yield appliance


def put_all(session: Session, prefix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        answer = session.put(f"/{prefix}-{name}", data)
        assert answer.status in (200, 201), f"{prefix}-{name}: {answer}"


def check_all(session: Session, prefix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        answer = session.get(f"/{prefix}-{name}")
        assert answer.status == 200, f"{prefix}-{name}: {answer}"
        assert answer.body == data


def readiness(session: Session) -> tuple[int, str, str, str]:
    answer = session.call("GET", "/readyz")
    checks = answer.document["checks"]
    return answer.status, answer.document["status"], checks["reads"], checks["writes"]


def test_reads_go_on_and_writes_stop_at_the_second_dead_node(appliance: Appliance, tmp_path: Path) -> None:
    rng = make_random("dead nodes")
    files = {name: rng.randbytes(size) for name, size in SIZES.items()}
    session = appliance.login()
    put_all(session, "all-alive", files)
    victims = rng.sample(appliance.processes("node"), 2)

    assert readiness(session) == (200, "ok", "ok", "ok")
    appliance.wait_until_gone(appliance.kill_child(victims[0].name))
    check_all(session, "all-alive", files)
    put_all(session, "one-dead", files)
    assert readiness(session) == (200, "ok", "ok", "ok")
    check_all(session, "one-dead", files)

    appliance.wait_until_gone(appliance.kill_child(victims[1].name))
    check_all(session, "all-alive", files)
    check_all(session, "one-dead", files)
    for name in ("one", "several"):
        # Other bytes than before: what is stored already needs no node.
        answer = session.put(f"/two-dead-{name}", rng.randbytes(SIZES[name] + 1))
        assert answer.status == 503, answer
        assert answer.error_code == "cannot_take_write"
        assert session.get(f"/two-dead-{name}").status == 404, "nothing half-written is visible"

    # A load balancer keeps the worker for the reads; who wants to write can ask for that.
    assert readiness(session) == (200, "read_only", "ok", "refused: too few nodes answer")
    assert session.call("GET", "/readyz", query={"writes": "true"}).status == 503

    # The command line says the same with its exit code.
    appliance.cli_login(tmp_path / "home")
    (tmp_path / "file").write_bytes(rng.randbytes(SIZES["several"]))
    result = appliance.cli("put", str(tmp_path / "file"), "/by-cli", home=tmp_path / "home")
    assert result.code == 6, result
    assert "Traceback" not in result.stderr
    assert appliance.cli("get", "/all-alive-several", str(tmp_path / "back"), home=tmp_path / "home").code == 0
    assert (tmp_path / "back").read_bytes() == files["several"]


def test_writes_are_taken_again_when_the_nodes_are_back(appliance: Appliance) -> None:
    rng = make_random("nodes back")
    data = rng.randbytes(5_000_000)
    session = appliance.login()
    for victim in rng.sample(appliance.processes("node"), 2):
        appliance.wait_until_gone(appliance.kill_child(victim.name))
    assert session.put("/refused", data).status == 503
    assert appliance.stop() == 0
    appliance.start()
    session = appliance.login()
    wait_until(lambda: session.put("/taken", data).status in (200, 201), what="a write that is taken")
    assert session.get("/taken").body == data
