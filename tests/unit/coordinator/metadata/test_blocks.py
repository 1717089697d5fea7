from __future__ import annotations

from collections import Counter
from dataclasses import replace

from coordinator.metadata import blocks, db, groups
from coordinator.metadata.values import NewBlock
from coordinator.protocol.types import Role
from tests.kit.metadata import Person, block_hash, make_layout, new_block, share


def record(anna: Person, *new: NewBlock, path: str = "/") -> list[bytes]:
    target = anna.at(path)
    rows = blocks.record(target.account_id, target.namespace_id, anna.session.user_id, None, new)
    return [row.block_id for row in rows]


def test_a_recorded_block_comes_back_as_it_was(anna: Person) -> None:
    new = new_block(anna.user.account_id, "x", 100)
    assert blocks.record(anna.user.account_id, anna.home, anna.user.id, None, [new]) == [new.row]
    assert blocks.get_many([new.row.block_id, bytes(16)]) == {new.row.block_id: new.row}
    assert blocks.record(anna.user.account_id, anna.home, anna.user.id, None, []) == []


def test_recording_twice_changes_nothing(anna: Person) -> None:
    new = new_block(anna.user.account_id, "x", 100, missing=(5,))
    assert record(anna, new) == record(anna, new) == [new.row.block_id]
    assert db.rows("SELECT 1 FROM doomed_block") == []
    assert blocks.count_missing() == 1


def test_the_same_content_again_gives_way_to_the_first_and_is_doomed(anna: Person) -> None:
    first, second = (new_block(anna.user.account_id, "x", 100, missing=(number,)) for number in (0, 1))
    other = new_block(anna.user.account_id, "y", 100, missing=(2,))
    record(anna, first)
    assert record(anna, second, other) == [first.row.block_id, other.row.block_id]
    assert db.rows("SELECT block_id, group_id FROM doomed_block") == [(second.row.block_id, 1)]
    missing = {(shard.block.block_id, shard.index) for shard in blocks.list_missing(10)}
    assert missing == {(first.row.block_id, 0), (other.row.block_id, 2)}


def test_twins_within_one_batch_become_one_row(anna: Person) -> None:
    one, two = (new_block(anna.user.account_id, "x", 100) for _ in range(2))
    standing = record(anna, one, two)
    assert standing[0] == standing[1]
    assert db.one("SELECT count(*) FROM block") == db.one("SELECT count(*) FROM doomed_block") == (1,)


def test_a_dedup_hit_revives_a_condemned_block(anna: Person) -> None:
    first = new_block(anna.user.account_id, "x", 100)
    record(anna, first)
    db.run("UPDATE block SET condemned_at = now() - interval '9 days'")
    assert record(anna, new_block(anna.user.account_id, "x", 100)) == [first.row.block_id]
    assert db.one("SELECT condemned_at FROM block") == (None,)


def test_accounts_do_not_share_blocks(anna: Person, ben: Person) -> None:
    one = record(anna, new_block(anna.user.account_id, "x", 100))
    two = record(ben, new_block(ben.user.account_id, "x", 100))
    assert one != two


def test_missing_are_those_that_the_caller_neither_sent_nor_may_read(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    anna.put("/Team/read", "in the shared tree")
    anna.put("/private", "in the private one")
    anna.send("/Team/f", "only sent")
    hashes = [block_hash(label, 100) for label in ("in the shared tree", "in the private one", "only sent", "nowhere")]
    team = anna.at("/Team").namespace_id
    for_anna = blocks.find_missing(anna.session, anna.user.account_id, team, hashes * 2)
    assert for_anna == [hashes[3]]
    for_ben = blocks.find_missing(ben.session, anna.user.account_id, team, hashes)
    assert for_ben == hashes[1:]


def test_a_block_is_read_by_its_hash_only_where_it_is_readable(anna: Person, ben: Person) -> None:
    share(anna, "Team", a=(anna, Role.OWNER), b=(ben, Role.VIEWER))
    anna.put("/private", "x")
    team = anna.at("/Team").namespace_id
    assert blocks.find_readable(anna.session, anna.home, block_hash("x", 100)) is not None
    assert blocks.find_readable(anna.session, team, block_hash("x", 100)) is None
    anna.put("/Team/f", "x")
    found = blocks.find_readable(ben.session, team, block_hash("x", 100))
    assert found is not None
    assert found.hash == block_hash("x", 100)
    assert blocks.find_readable(ben.session, ben.home, block_hash("x", 100)) is None


def test_an_existing_block_is_referenced_instead_of_sent(anna: Person, ben: Person) -> None:
    anna.put("/f", "x")
    found = blocks.stage_existing(
        anna.session, anna.user.account_id, anna.home, "u1", [block_hash("x", 100), block_hash("y", 100)]
    )
    assert found[0] is not None
    assert found[1] is None
    assert db.rows("SELECT upload_id FROM staged_block") == [("u1",)]
    assert blocks.stage_existing(ben.session, ben.user.account_id, ben.home, None, [block_hash("x", 100)]) == [None]


# --- repair


def test_the_most_endangered_are_repaired_first(anna: Person) -> None:
    strong, weak = (new_block(anna.user.account_id, label, 100) for label in "ab")
    record(anna, strong, weak)
    blocks.report_missing(strong.row.block_id, [0], "bad digest")
    blocks.report_missing(weak.row.block_id, [1, 4], "bad digest")
    blocks.report_missing(weak.row.block_id, [1, 9], "again, and one that it does not have")
    blocks.report_missing(bytes(16), [0], "unknown block")
    queue = blocks.list_missing(10)
    assert [(shard.block.block_id, shard.index, shard.margin) for shard in queue] == [
        (weak.row.block_id, 1, 0),
        (weak.row.block_id, 4, 0),
        (strong.row.block_id, 0, 1),
    ]
    assert blocks.count_by_margin() == {0: 1, 1: 1}
    blocks.mark_repaired(weak.row.block_id, [1, 4])
    assert blocks.count_by_margin() == {1: 1, 2: 1}


def test_slots_that_do_not_answer_take_from_the_margin(anna: Person) -> None:
    groups.bootstrap(make_layout())
    coded = new_block(anna.user.account_id, "coded", 100, missing=(1,))
    group = coded.row.group_id
    copies = replace(new_block(anna.user.account_id, "copies", 100).row, k=1, m=2)
    record(anna, coded, NewBlock(copies))
    slots = len(groups.load_map().groups[group].slots)
    first = int.from_bytes(copies.block_id[-4:], "big") % slots
    held = {(first + index) % slots for index in range(3)}
    for silent in range(slots):
        expected = Counter([coded.row.m - len({1, silent}), 2 - (silent in held)])
        assert blocks.count_by_margin([(group, silent)]) == expected, silent
    everything = [(group, slot) for slot in range(slots)]
    assert blocks.count_by_margin(everything) == Counter([coded.row.m - slots, -1])


def test_a_failed_repair_is_put_off(anna: Person) -> None:
    new = new_block(anna.user.account_id, "x", 100, missing=(3,))
    record(anna, new)
    blocks.postpone_repair(new.row.block_id, [3], 60)
    assert blocks.list_missing(10) == []
    assert blocks.count_missing() == 1
    db.run("UPDATE missing_shard SET next_attempt_at = now()")
    assert [shard.attempts for shard in blocks.list_missing(10)] == [1]
