"""Damaged, cut and exchanged disks: right bytes or a clear error, never wrong bytes, never a hang."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.cluster import Appliance, Session, short_folder, wait_until
from tests.kit.faults import exchange, flip_bit_in_every_shard, list_volumes, make_random

SIZES = (1, 30_000, 200_000, 4 * 1024 * 1024, 9_500_000)
ERRORS = {"block_damaged", "cannot_read"}


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    # One worker suffices for what lies on the nodes, and every test starts an appliance of its own.
    with short_folder() as folder, Appliance(folder / "data", "--workers", "1") as appliance:
        yield appliance


def put_files(session: Session, contents: list[bytes], prefix: str = "file") -> None:
    for number, data in enumerate(contents):
        answer = session.put(f"/{prefix}-{number}", data)
        assert answer.status in (200, 201), answer


def check_files(session: Session, contents: list[bytes], prefix: str = "file") -> None:
    for number, data in enumerate(contents):
        answer = session.get(f"/{prefix}-{number}")
        assert answer.status == 200, answer
        assert answer.body == data, f"file {number} differs"


def test_flipped_bits_on_two_disks_are_read_around(appliance: Appliance) -> None:
    rng = make_random("flipped bits")
    contents = [rng.randbytes(size) for size in SIZES]
    session = appliance.login()
    put_files(session, contents)
    for node in rng.sample(appliance.processes("node"), 2):
        assert flip_bit_in_every_shard(node.disks[0], rng) > 0
    check_files(session, contents)


def test_more_damage_than_the_code_covers_is_an_error_and_never_wrong_bytes(appliance: Appliance) -> None:
    rng = make_random("too many flipped bits")
    data = rng.randbytes(9_500_000)
    session = appliance.login()
    put_files(session, [data])
    for node in appliance.processes("node"):
        flip_bit_in_every_shard(node.disks[0], rng)
    # The status line may have gone out before the damage was found; then the body breaks off.
    for _ in range(2):
        try:
            answer = session.get("/file-0", timeout_s=60)
        except Exception as error:  # noqa: BLE001 - urllib3 has many ways to say that the body broke off
            assert "timed out" not in str(error).lower(), "it hangs"
            continue
        assert answer.status in (500, 503), answer.status
        assert answer.error_code in ERRORS


def test_a_truncated_volume_costs_no_file(appliance: Appliance) -> None:
    rng = make_random("truncated volume")
    contents = [rng.randbytes(size) for size in SIZES]
    put_files(appliance.login(), contents)
    victim = rng.choice(appliance.processes("node"))
    assert appliance.stop() == 0
    volume = list_volumes(victim.disks[0])[-1]
    size = volume.stat().st_size
    with volume.open("r+b") as file:
        file.truncate(rng.randrange(1, size))
    appliance.start()
    session = appliance.login()
    check_files(session, contents)
    more = [rng.randbytes(1_000_000)]
    put_files(session, more, "later")
    check_files(session, more, "later")


def test_a_volume_cut_while_the_node_runs_costs_no_file(appliance: Appliance) -> None:
    rng = make_random("volume cut in service")
    contents = [rng.randbytes(size) for size in SIZES]
    session = appliance.login()
    put_files(session, contents)
    volume = list_volumes(rng.choice(appliance.processes("node")).disks[0])[-1]
    with volume.open("r+b") as file:
        file.truncate(volume.stat().st_size // 2)
    check_files(session, contents)


def test_exchanged_disks_are_refused_and_served_again_when_they_are_back(appliance: Appliance) -> None:
    rng = make_random("exchanged disks")
    contents = [rng.randbytes(size) for size in SIZES]
    put_files(appliance.login(), contents)
    new = rng.randbytes(5_000_000)
    one, other = (node.disks[0] for node in rng.sample(appliance.processes("node"), 2))
    assert appliance.stop() == 0
    identities = [(disk / "identity.json").read_bytes() for disk in (one, other)]
    exchange(one, other)
    try:
        appliance.start()
        session = appliance.login()
        check_files(session, contents)  # from the other four
        answer = session.put("/refused", new)  # other bytes than before: what is stored already needs no node
        assert (answer.status, answer.error_code) == (503, "cannot_take_write")
        assert appliance.stop() == 0
    finally:
        exchange(one, other)
    assert [(disk / "identity.json").read_bytes() for disk in (one, other)] == identities
    appliance.start()
    session = appliance.login()
    check_files(session, contents)
    wait_until(lambda: session.put("/taken", new).status in (200, 201), what="a write that is taken")


def test_a_lost_disk_is_not_made_anew(appliance: Appliance) -> None:
    rng = make_random("lost disk")
    contents = [rng.randbytes(size) for size in SIZES]
    put_files(appliance.login(), contents)
    disk = rng.choice(appliance.processes("node")).disks[0]
    assert appliance.stop() == 0
    disk.rename(disk.with_name("lost"))
    appliance.start()
    session = appliance.login()
    check_files(session, contents)
    more = [rng.randbytes(size) for size in SIZES]
    put_files(session, more, "without-it")
    check_files(session, more, "without-it")
    assert not disk.exists()
