"""The volume engine against its twin in RAM, through kills, power cuts at any call, lost indexes and flipped bits."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.protocol.errors import ShardCorrupt, ShardMissing, StaleEpoch
from node.protocol.messages import ShardName
from node.volumes.changes import Advance, Change, Epochs, Outcome, Put, Trash
from node.volumes.memory import MemoryStore
from node.volumes.store import ShardStore
from tests.kit.shards import ForgetfulIO, PowerCut, StoreBox, make_name, make_put

NUMBERS = st.integers(0, 5)
SIZES = st.sampled_from([1, 100, 3839, 3840, 3841, 4096, 9000, 30_000])


def make_payload(number: int, size: int, variant: int = 0) -> bytes:
    return random.Random(f"{number} {size} {variant}").randbytes(size)


CHANGES = st.one_of(
    st.builds(lambda number, size: make_put(number, make_payload(number, size)), NUMBERS, SIZES),
    st.builds(lambda number: Trash(make_name(number), (1, 1)), NUMBERS),
)


class VolumeMachine(RuleBasedStateMachine):
    """`model` holds what was acknowledged; `_settle` learns what an interrupted write has or has not done."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="volumes-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.io = ForgetfulIO()
        self.box = StoreBox.make(self.folder / "disk", io=self.io)
        self.box.open()
        self.model = MemoryStore(epochs=Epochs(), clock=self.box.clock, trash_keep_s=3600.0)
        self.group_epoch = 1

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.kill()
            shutil.rmtree(self.folder)

    @property
    def store(self) -> ShardStore:
        assert self.box.store is not None
        return self.box.store

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=5))
    def write(self, changes: list[Change]) -> None:
        self._expect_equal(self.store.write(changes), self.model.write(changes))

    @rule(
        changes=st.lists(CHANGES, min_size=1, max_size=5),
        cut_after=st.integers(0, 3),
        power=st.booleans(),
        seed=st.integers(0, 2**32),
    )
    def write_interrupted(self, changes: list[Change], cut_after: int, power: bool, seed: int) -> None:
        self.io.cut_after = cut_after
        try:
            outcomes = self.store.write(changes)
        except PowerCut:
            self.io.cut_after = None
            unsure = changes
        else:
            self.io.cut_after = None
            self._expect_equal(outcomes, self.model.write(changes))
            unsure = []
        self._restart(power, seed)
        self._settle(unsure)

    @rule(power=st.booleans(), seed=st.integers(0, 2**32))
    def crash(self, power: bool, seed: int) -> None:
        self._restart(power, seed)

    @rule()
    def restart(self) -> None:
        self.box.close()
        self.box.open()

    @rule()
    def lose_index(self) -> None:
        self.box.close()
        shutil.rmtree(self.box.path / "index")
        self.box.open()

    @rule(number=NUMBERS)
    def put_another_payload(self, number: int) -> None:
        change = make_put(number, make_payload(number, 500, variant=1))
        if make_name(number) in self.model._shards:
            self._expect_equal(self.store.write([change]), self.model.write([change]))

    @rule(number=NUMBERS, at=st.integers(0, 29_999))
    def flip_bit(self, number: int, at: int) -> None:
        held = self.model._shards.get(make_name(number))
        if held is None or self._is_bad(self.model, make_name(number)):
            return
        self.box.flip_bit(make_name(number), at % len(held[1]))
        self.model.damage(make_name(number))

    @rule(seconds=st.sampled_from([10.0, 4000.0]))
    def tend(self, seconds: float) -> None:
        self.box.clock.seconds += seconds
        self.store.tend()
        self.model.tend()

    @rule()
    def raise_epoch(self) -> None:
        self.group_epoch += 1
        self._expect_equal(
            self.store.write([Advance((9, self.group_epoch))]), self.model.write([Advance((9, self.group_epoch))])
        )

    @rule()
    def put_of_an_older_epoch(self) -> None:
        if self.group_epoch > 1:
            late = [make_put(3, b"late", group_id=9, group_epoch=self.group_epoch - 1)]
            assert isinstance(self.store.write(late)[0], StaleEpoch)

    @invariant()
    def holds_what_was_acknowledged(self) -> None:
        if not hasattr(self, "box"):
            return
        for number in range(6):
            assert self._look(self.store, make_name(number)) == self._look(self.model, make_name(number))
        expected = self.model.list_shards(None, 100)
        assert self.store.list_shards(None, 100) == expected
        assert self.store.count_shards() == len(expected)

    def _restart(self, power: bool, seed: int) -> None:
        if power:
            self.box.cut_power(random.Random(seed))
        else:
            self.box.kill()
        self.box.open()

    def _settle(self, unsure: list[Change]) -> None:
        """Whatever was not acknowledged may have happened or not; the model takes over what is found."""
        for name in {change.name for change in unsure if isinstance(change, Put | Trash)}:
            payloads = [change.payload for change in unsure if isinstance(change, Put) and change.name == name]
            found = self._look(self.store, name)
            before = self._look(self.model, name)
            trashed = any(isinstance(change, Trash) and change.name == name for change in unsure)
            allowed = [before, *payloads, *(["corrupt"] if payloads else []), *(["missing"] if trashed else [])]
            assert found in allowed, f"{name.index}: {found!r} after an interrupted write"
            self._adopt(name, found, unsure)

    def _adopt(self, name: ShardName, found: object, unsure: list[Change]) -> None:
        sizes = {row.block_id: row.payload_bytes for row in self.store.list_shards(None, 100)}
        held = self.model._shards.get(name)
        same_size = held is not None and len(held[1]) == sizes.get(name.block_id)
        if found == self._look(self.model, name) and (found != "corrupt" or same_size):
            return
        self.model._shards.pop(name, None)
        if found == "missing":
            return
        puts = [change for change in unsure if isinstance(change, Put) and change.name == name]
        put = next(put for put in puts if len(put.payload) == sizes[name.block_id])
        self.model._shards[name] = put.meta, bytes(put.payload)
        if found == "corrupt":
            self.model.damage(name)

    @staticmethod
    def _look(store: ShardStore | MemoryStore, name: ShardName) -> object:
        try:
            return bytes(store.read(name)[1])
        except ShardMissing:
            return "missing"
        except ShardCorrupt:
            return "corrupt"

    def _is_bad(self, store: ShardStore | MemoryStore, name: ShardName) -> bool:
        return self._look(store, name) == "corrupt"

    @staticmethod
    def _expect_equal(real: list[Outcome], model: list[Outcome]) -> None:
        assert [o if isinstance(o, bool) else type(o) for o in real] == [
            o if isinstance(o, bool) else type(o) for o in model
        ]


TestVolumes = VolumeMachine.TestCase
TestVolumes.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
