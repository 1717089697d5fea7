"""Which known file an entry on a disk in memory is, after whatever a person did to it."""

from __future__ import annotations

import random

import pytest

from client.fs.fake import FakeFileSystem
from client.sync.local.findings import DirtyFolder
from tests.kit.scan_device import Device, rescan


def test_an_edit_keeps_the_file(device: Device, how: str) -> None:
    before = device.ids()
    device.user.write_in_place(("top",), b"edited")
    device.user.save_by_rename(("d1", "a"), b"edited too")
    assert rescan(device, how) == before
    assert sorted(device.read) == [("d1", "a"), ("top",)]


def test_a_renamed_and_a_moved_file_stay_themselves(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("TOP",))
    device.user.rename(("d1", "a"), ("d2", "sub", "moved"))
    after = rescan(device, how)
    assert after["TOP"] == before["top"]
    assert after["d2/sub/moved"] == before["d1/a"]
    assert device.gone == []


def test_a_moved_folder_is_one_move(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2",), ("d1", "moved"))
    after = rescan(device, how)
    assert after["d1/moved"] == before["d2"]
    assert after["d1/moved/sub/c"] == before["d2/sub/c"]
    assert (device.read, device.gone) == ([], [])


def test_parent_and_child_that_changed_places(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2", "sub"), ("sub",))
    device.user.rename(("d2",), ("sub", "d2"))
    after = rescan(device, how)
    assert (after["sub"], after["sub/d2"], after["sub/c"]) == (before["d2/sub"], before["d2"], before["d2/sub/c"])


def test_files_and_folders_that_were_swapped(device: Device, how: str) -> None:
    before = device.ids()
    for one, other in ((("top",), ("d1", "b")), (("d1",), ("d2",))):
        device.user.rename(one, ("aside",))
        device.user.rename(other, one)
        device.user.rename(("aside",), other)
    after = rescan(device, how)
    assert (after["d2"], after["d1"]) == (before["d1"], before["d2"])
    assert (after["d2/b"], after["top"]) == (before["top"], before["d1/b"])
    assert after["d1/sub/c"] == before["d2/sub/c"]


def test_a_chain_of_renames(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d1", "b"), ("d1", "c"))
    device.user.rename(("d1", "a"), ("d1", "b"))
    after = rescan(device, how)
    assert (after["d1/b"], after["d1/c"]) == (before["d1/a"], before["d1/b"])


def test_a_known_file_renamed_over_another_is_an_edit_of_that(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d1", "b"), ("d1", "a"))
    after = rescan(device, how)
    assert after["d1/a"] == before["d1/a"]
    assert device.gone == [before["d1/b"]]


def test_a_backup_by_rename_leaves_the_name_its_identity(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("top.bak",))
    device.user.write_in_place(("top",), b"saved anew")
    after = rescan(device, how)
    assert after["top"] == before["top"]
    assert after["top.bak"] not in before.values()


def test_a_new_file_with_a_used_inode_is_new(device: Device, how: str) -> None:
    before, number = device.ids(), device.disk.find(("top",)).number
    device.user.delete(("top",))
    device.user.write_in_place(("other",), b"something else")
    assert device.disk.find(("other",)).number == number
    after = rescan(device, how)
    assert after["other"] not in before.values()
    assert device.gone == [before["top"]]


def test_a_file_that_was_moved_and_edited_since_the_last_look_stays_itself(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("d1", "moved"))
    device.user.write_in_place(("d1", "moved"), b"and edited, too")
    after = rescan(device, how)
    assert after["d1/moved"] == before["top"]
    assert device.gone == []
    assert device.read == [("d1", "moved")]


def test_files_that_were_swapped_and_edited_stay_themselves(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d1", "a"), ("d1", "aside"))
    device.user.rename(("d1", "b"), ("d1", "a"))
    device.user.rename(("d1", "aside"), ("d1", "b"))
    device.user.write_in_place(("d1", "b"), b"edited after it was renamed")
    after = rescan(device, how)
    assert (after["d1/a"], after["d1/b"]) == (before["d1/b"], before["d1/a"])


def test_a_backup_that_is_edited_leaves_the_name_its_identity(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("top",), ("top.old",))
    device.user.write_in_place(("top.old",), b"edited")
    device.user.write_in_place(("top",), b"made anew")
    after = rescan(device, how)
    assert after["top"] == before["top"]
    assert after["top.old"] not in before.values()


def test_a_new_folder_with_a_used_inode_is_new(device: Device, how: str) -> None:
    before, number = device.ids(), device.disk.find(("d1",)).number
    device.user.delete(("d1",))
    for name in ("x", "y", "z", "w"):
        device.user.mkdir((name,))
    assert number in {device.disk.find((name,)).number for name in ("x", "y", "z", "w")}
    device.user.write_in_place(("x", "new"), b"new")
    after = rescan(device, how)
    assert device.gone == [before["d1"]]
    assert {"x", "y", "z", "w", "x/new"} <= set(after)


def test_a_file_moved_out_of_a_deleted_folder(device: Device, how: str) -> None:
    before = device.ids()
    device.user.rename(("d2", "sub", "c"), ("saved",))
    device.user.delete(("d2",))
    after = rescan(device, how)
    assert after["saved"] == before["d2/sub/c"]
    assert device.gone == [before["d2"]]


def test_a_file_that_became_a_folder_and_the_other_way(device: Device, how: str) -> None:
    before = device.ids()
    device.user.delete(("top",))
    device.user.mkdir(("top",))
    device.user.delete(("d1",))
    device.user.write_in_place(("d1",), b"now a file")
    after = rescan(device, how)
    assert {before["top"], before["d1"]} == set(device.gone)
    assert after["top"] not in before.values()


def test_hard_links_are_two_files(device: Device, how: str) -> None:
    before = device.ids()
    device.user.link(("top",), ("link",))
    after = rescan(device, how)
    assert after["top"] == before["top"]
    assert after["link"] not in before.values()


def test_a_folder_made_and_filled_at_once(device: Device) -> None:
    device.user.mkdir(("new",))
    device.user.mkdir(("new", "deep"))
    device.user.write_in_place(("new", "deep", "file"), b"x")
    device.dirty = [DirtyFolder((), recursive=False)]  # all that a watcher could have seen
    device.scan_dirty()
    device.check()


def test_a_batch_finds_the_old_place_of_a_moved_file_by_itself(device: Device) -> None:
    before = device.ids()
    device.user.rename(("d1", "a"), ("d2", "a"))
    device.dirty = [DirtyFolder(("d2",))]
    device.scan_dirty()
    device.check()
    assert device.ids()["d2/a"] == before["d1/a"]


def test_a_batch_about_a_path_that_is_gone_looks_above(device: Device) -> None:
    before = device.ids()
    device.user.delete(("d2",))
    device.dirty = [DirtyFolder(("d2", "sub"), recursive=True)]
    device.scan_dirty()
    device.check()
    assert device.gone == [before["d2"]]


def test_a_batch_below_a_swapped_folder_does_not_mix_the_two(device: Device) -> None:
    device.user.mkdir(("d1", "sub"))
    device.user.write_in_place(("d1", "sub", "c"), b"another c")
    device.scan_dirty()
    before = device.ids()
    device.user.rename(("d1",), ("aside",))
    device.user.rename(("d2",), ("d1",))
    device.user.rename(("aside",), ("d2",))
    device.dirty = [DirtyFolder(("d1", "sub"))]
    device.scan_dirty()
    device.check()
    after = device.ids()
    assert (after["d1"], after["d1/sub/c"]) == (before["d2"], before["d2/sub/c"])
    assert (after["d2"], after["d2/sub/c"]) == (before["d1"], before["d1/sub/c"])


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_user_does_the_tree_is_the_disk(seed: int) -> None:
    """Random histories, looked at by full scans or by batches; identities through renames are kept where sure."""
    rng = random.Random(seed)
    device = Device(late=rng.random() < 0.5)
    for _ in range(rng.randint(3, 12)):
        for _ in range(rng.randint(1, 8)):
            act(rng, device)
        if rng.random() < 0.5:
            device.dirty.clear()
            device.scan()
        else:
            device.scan_dirty()
        try:
            device.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_a_folder_taken_out_of_a_moved_one_that_has_another_in_its_place_is_looked_into(device: Device) -> None:
    user = device.user
    user.write_in_place(("d2", "stays"), b"by this the moved one is known again")
    rescan(device, "all")
    user.rename(("d2", "sub"), ("aside",))
    user.rename(("top",), ("aside", "new"))
    user.rename(("aside",), ("top",))
    user.rename(("d2",), ("moved",))
    user.mkdir(("moved", "sub"))
    assert {"moved/sub", "top/c", "top/new"} <= set(rescan(device, "all"))


def test_a_folder_that_is_renamed_after_it_was_listed_stays_itself(device: Device) -> None:
    before = device.ids()
    device.fs = FakeFileSystem(device.disk, on_call=Budget(500))
    steps = device.scanner().scan_folders([DirtyFolder(("d1",)), DirtyFolder(("x",))])
    device.store(next(steps))
    device.user.rename(("d1",), ("D1",))
    device.absorb(steps)  # the root is listed now, for what may be at "x"
    assert device.ids()["D1"] == before["d1"]
    assert rescan(device, "all")["D1/a"] == before["d1/a"]


@pytest.mark.parametrize("seed", range(300))
def test_a_scan_comes_to_its_end_whatever_is_done_meanwhile(seed: int) -> None:
    rng = random.Random(seed)
    device = Device()
    for _ in range(rng.randint(2, 6)):
        for _ in range(rng.randint(1, 8)):
            act(rng, device)
        device.fs = FakeFileSystem(device.disk, on_call=Budget(5000))
        for changes in device.scanner().scan():
            device.store(changes)
            if rng.random() < 0.3:
                act(rng, device)
        device.scan()
        try:
            device.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


class Budget:
    """Fails the test that makes more calls: a scan that goes round in circles would never end."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, name: str) -> None:
        self.left -= 1
        assert self.left > 0, "the scan goes round in circles"


@pytest.mark.parametrize("seed", range(300))
def test_a_scan_that_was_cut_off_anywhere_is_made_good_by_the_next(seed: int) -> None:
    """What a killed client has stored of a scan may have two nodes at one place: that one of them has gone elsewhere,
    the rest was to tell."""
    rng = random.Random(seed)
    device = Device()
    for _ in range(rng.randint(3, 12)):
        for _ in range(rng.randint(1, 8)):
            act(rng, device)
        steps = list(device.scanner().scan())
        for changes in steps[: rng.randint(0, len(steps))]:
            device.store(changes)
        device.scan()
        try:
            device.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def act(rng: random.Random, device: Device) -> None:
    user = device.user
    files, folders = list(user.files()), [(), *user.folders()]
    target = (*rng.choice(folders), rng.choice("abcde"))
    try:
        match rng.randrange(7):
            case 0 | 1:
                user.write_in_place(target, rng.randbytes(rng.randint(0, 5)))
            case 2:
                user.save_by_rename(target, rng.randbytes(rng.randint(0, 5)))
            case 3:
                user.mkdir(target)
            case 4:
                user.delete(rng.choice(files + folders[1:]))
            case _:
                user.rename(rng.choice(files + folders[1:]), target)
    except (OSError, IndexError):
        pass  # what the disk refuses, the user did not do
