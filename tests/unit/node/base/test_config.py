from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from node.base.config import ConfigError, load_toml, parse_toml


class _Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    share: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class _Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    disks: tuple[_Disk, ...] = ()


def test_a_valid_file_is_decoded(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('name = "a"\n[[disks]]\npath = "/d"\nshare = 7\n')
    assert load_toml(file, _Config) == _Config(name="a", disks=(_Disk(path="/d", share=7),))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'In x.toml, the key "name" is missing.'),
        ("name = 1", 'In x.toml, the key "name" must be str, not int.'),
        ('name = "a"\ncolour = 1', 'In x.toml, the key "colour" is not known.'),
        ('name = "a"\n[[disks]]\nshare = 1', 'In x.toml, the key "disks[0].path" is missing.'),
        ('name = "a"\n[[disks]]\npath = "/"\nshare = 0', 'In x.toml, the key "disks[0].share" must be int >= 1.'),
        ("name = ", "x.toml is not valid TOML: Invalid value (at end of document)."),
    ],
)
def test_what_is_wrong_is_named_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, _Config, name="x.toml")
    assert str(caught.value) == sentence


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read: No such file"):
        load_toml(tmp_path / "missing.toml", _Config)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_toml(tmp_path / "latin.toml", _Config)
