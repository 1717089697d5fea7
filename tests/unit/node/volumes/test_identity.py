from __future__ import annotations

from pathlib import Path

import pytest

from node.volumes.identity import DiskForeign, Identity, claim_disk, format_disk, is_formatted_as, read_identity

IDENTITY = Identity(cluster_id="cluster", node="node1", disk_id="a" * 32)


def make_disk(path: Path) -> Path:
    path.mkdir()
    format_disk(path, IDENTITY)
    return path


def list_tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def test_a_formatted_disk_can_be_claimed_once_at_a_time(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk")
    claim = claim_disk(disk, "cluster", "node1", "a" * 32)
    with pytest.raises(DiskForeign, match="another process"):
        claim_disk(disk, "cluster", "node1", "a" * 32)
    claim.release()
    claim_disk(disk, "cluster", "node1", "a" * 32).release()


@pytest.mark.parametrize(
    ("cluster", "node", "disk_id", "word"),
    [
        ("other", "node1", "a" * 32, "cluster"),
        ("cluster", "node2", "a" * 32, "node"),
        ("cluster", "node1", "b" * 32, "disk"),
    ],
)
def test_a_foreign_disk_is_refused_and_left_as_it_is(
    tmp_path: Path, cluster: str, node: str, disk_id: str, word: str
) -> None:
    disk = make_disk(tmp_path / "disk")
    before = list_tree(disk)
    with pytest.raises(DiskForeign, match=f"belongs to {word}"):
        claim_disk(disk, cluster, node, disk_id)
    assert list_tree(disk) == before


def test_an_empty_directory_is_an_unmounted_disk_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(DiskForeign, match="no identity"):
        claim_disk(tmp_path, "cluster", "node1", "a" * 32)
    assert list_tree(tmp_path) == []


@pytest.mark.parametrize("position", range(0, 140, 7))
def test_a_damaged_identity_is_refused(tmp_path: Path, position: int) -> None:
    disk = make_disk(tmp_path / "disk")
    file = disk / "identity.json"
    data = bytearray(file.read_bytes())
    if data[position : position + 1].isspace():
        pytest.skip("white space carries nothing")
    data[position] ^= 0x04
    file.write_bytes(data)
    with pytest.raises(DiskForeign):
        claim_disk(disk, "cluster", "node1", "a" * 32)


def test_formatting_needs_an_empty_directory_that_exists(tmp_path: Path) -> None:
    with pytest.raises(DiskForeign, match="not a directory"):
        format_disk(tmp_path / "missing", IDENTITY)
    disk = make_disk(tmp_path / "disk")
    with pytest.raises(DiskForeign, match="not empty"):
        format_disk(disk, IDENTITY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    with pytest.raises(DiskForeign, match=r"photo\.jpg"):
        format_disk(tmp_path / "full", IDENTITY)
    (tmp_path / "ext4" / "lost+found").mkdir(parents=True)
    format_disk(tmp_path / "ext4", IDENTITY)
    assert read_identity(tmp_path / "ext4") == IDENTITY


def test_formatting_again_is_recognised(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk")
    assert is_formatted_as(disk, IDENTITY)
    assert not is_formatted_as(tmp_path, IDENTITY)
    with pytest.raises(DiskForeign):
        is_formatted_as(disk, Identity(cluster_id="other", node="node1", disk_id="a" * 32))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_formatting_that_was_cut_short_is_completed(tmp_path: Path, steps: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "volumes").mkdir()
    if steps > 1:
        (disk / "lock").touch()
    if steps > 2:
        (disk / ".identity.json.123.tmp").write_bytes(b'{"ident')
    format_disk(disk, IDENTITY)
    claim_disk(disk, "cluster", "node1", "a" * 32).release()


def test_a_used_disk_whose_identity_is_gone_is_not_formatted(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk")
    (disk / "volumes" / "0000000001.volume").write_bytes(b"shards")
    (disk / "identity.json").unlink()
    with pytest.raises(DiskForeign, match="holds volumes"):
        format_disk(disk, IDENTITY)
