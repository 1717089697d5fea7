"""kill -9 of every kind of process at random moments of an upload: what was acknowledged compares equal afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import urllib3

from tests.kit.cluster import Answer, Appliance, Session, lend, short_folder, wait_until
from tests.kit.faults import make_random

ROUNDS = 4
pytestmark = pytest.mark.xdist_group("killed appliance")


@pytest.fixture(scope="module")
def killed_appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    with short_folder() as folder, Appliance(folder / "data") as appliance:
        yield from lend(appliance, request)


@dataclass
class Uploader:
    """A thread that uploads files of random sizes one after the other until told to stop.

    `acknowledged` and `refused` belong to the thread until it has ended. A call that broke leaves its file in doubt: it
    may or may not have been stored, but if it was, then whole.
    """

    appliance: Appliance
    rng: random.Random
    name: str
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    doubtful: dict[str, bytes] = field(default_factory=dict)
    begun: int = 0
    unexpected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._session = self.appliance.login(self.name)
        self._thread = threading.Thread(target=self._run, name=self.name)
        self._thread.start()

    def wait_for_more(self, uploads: int) -> None:
        """Wait until so many further uploads have begun; some of them may be refused at once."""
        goal = self.begun + uploads
        wait_until(lambda: self.begun >= goal, timeout_s=60, what="further uploads")

    def wait_for_success(self) -> None:
        """Wait until one more upload was acknowledged, and the next one has begun."""
        goal = len(self.acknowledged) + 1
        wait_until(lambda: len(self.acknowledged) >= goal, timeout_s=60, what="an upload that is acknowledged")
        self.wait_for_more(1)

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), f"{self.name} hangs"
        assert self.unexpected == []

    def _run(self) -> None:
        while not self._stop.is_set():
            self.begun += 1
            path = f"/{self.name}-{self.begun}"
            size = self.rng.choice((0, 1, 50_000, 300_000, 4 * 1024 * 1024 + 1, 9_000_000))
            data = self.rng.randbytes(size)
            try:
                answer = self._session.put(path, data)
            except urllib3.exceptions.HTTPError:
                self.doubtful[path] = data
                continue
            if answer.status in (200, 201):
                self.acknowledged[path] = data
            elif answer.status in (500, 502, 503, 504):
                self.doubtful[path] = data
            else:
                self.unexpected.append(f"{path}: {answer.status} {answer.body!r}")


def check_files(session: Session, uploader: Uploader) -> None:
    """Every acknowledged file is there, byte for byte; a doubtful one is whole or absent."""
    for path, data in uploader.acknowledged.items():
        answer = read_when_well(session, path)
        assert answer.status == 200, f"{path} was acknowledged: {answer}"
        assert answer.body == data, f"{path} differs"
    for path, data in uploader.doubtful.items():
        answer = read_when_well(session, path)
        assert answer.status in (200, 404), f"{path}: {answer}"
        assert answer.status == 404 or answer.body == data, f"{path} differs"


def read_when_well(session: Session, path: str) -> Answer:
    """Read a file; while the service recovers it may say so (503) or break the line, but not for long."""

    def read() -> Answer | None:
        try:
            answer = session.get(path)
        except urllib3.exceptions.HTTPError:
            return None
        return None if answer.status == 503 else answer

    return wait_until(read, timeout_s=60, what=f"an answer for {path}")


@pytest.mark.parametrize("role", ["coordinator", "node", "postgres"])
def test_a_killed_process_comes_back_and_nothing_acknowledged_is_lost(killed_appliance: Appliance, role: str) -> None:
    appliance = killed_appliance
    rng = make_random(f"kill {role}")
    uploaders = [Uploader(appliance, random.Random(rng.random()), f"{role}-{number}") for number in range(2)]
    try:
        for number in range(ROUNDS):
            for uploader in uploaders:
                # Killed once when all is well and once when it may not yet be well again.
                if number % 2:
                    uploader.wait_for_more(1)
                else:
                    uploader.wait_for_success()
            # A random moment of an upload: what comes before it is counted, not slept.
            threading.Event().wait(rng.uniform(0, 0.3))
            victim = rng.choice(appliance.processes(role))
            appliance.kill_child(victim.name)
            appliance.wait_until_back(victim)
        for uploader in uploaders:
            uploader.wait_for_success()
    finally:
        for uploader in uploaders:
            uploader.finish()
    session = appliance.login("reader")
    for uploader in uploaders:
        check_files(session, uploader)


def test_a_killed_supervisor_takes_all_down_and_the_next_start_has_everything(killed_appliance: Appliance) -> None:
    appliance = killed_appliance
    rng = make_random("kill supervisor")
    for number in range(2):
        uploader = Uploader(appliance, random.Random(rng.random()), f"supervisor-{number}")
        uploader.wait_for_success()
        threading.Event().wait(rng.uniform(0, 0.3))
        appliance.kill()
        uploader.finish()
        appliance.start()
        check_files(appliance.login("reader"), uploader)


def test_kill_everything_at_once_as_in_a_crash(killed_appliance: Appliance) -> None:
    appliance = killed_appliance
    rng = make_random("kill all")
    uploader = Uploader(appliance, random.Random(rng.random()), "crash")
    uploader.wait_for_success()
    everyone = appliance.processes()
    rng.shuffle(everyone)
    for process in everyone:
        process.kill()
    appliance.kill()
    uploader.finish()
    appliance.start()
    check_files(appliance.login("reader"), uploader)
