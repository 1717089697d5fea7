"""TOML files decoded into one typed, frozen struct. What is wrong in a file is named in a sentence.

Structs should be declared `frozen=True, kw_only=True, forbid_unknown_fields=True`; ranges go into
`Annotated[int, msgspec.Meta(ge=1)]`.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

_T = TypeVar("_T", bound=msgspec.Struct)

# msgspec's messages, and the same for a person. The optional tail says where: "$.disks[0].path".
_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?$", re.DOTALL)
_SENTENCES: Final = (
    (re.compile(r"^Object missing required field `(.+)`$"), 'the key "{at}{0}" is missing'),
    (re.compile(r"^Object contains unknown field `(.+)`$"), 'the key "{at}{0}" is not known'),
    (re.compile(r"^Expected (.+), got (.+)$"), 'the key "{key}" must be {0}, not {1}'),
    (re.compile(r"^Expected (.+)$"), 'the key "{key}" must be {0}'),
    (re.compile(r"^Invalid (.+)$"), 'the key "{key}" has an invalid {0}'),
)


class ConfigError(Exception):
    """A configuration file cannot be used; the message is a sentence that names the file and the key."""


def load_toml(path: str | os.PathLike[str], kind: type[_T]) -> _T:
    """Read the file `path` as a `kind`. Raises ConfigError."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"The configuration file {os.fspath(path)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration file {os.fspath(path)} is not UTF-8 text.") from error
    return parse_toml(text, kind, name=os.fspath(path))


def parse_toml(text: str, kind: type[_T], *, name: str) -> _T:
    """Decode the TOML in `text`; `name` is what error messages call it. Raises ConfigError."""
    try:
        return msgspec.convert(tomllib.loads(text), kind)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not valid TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"In {name}, {_sentence(str(error))}.") from error


def _sentence(message: str) -> str:
    match = _AT.match(message)
    what, where = (match["what"], match["where"] or "") if match else (message, "")
    for pattern, sentence in _SENTENCES:
        if found := pattern.match(what):
            return sentence.format(*found.groups(), at=f"{where}." if where else "", key=where).replace("`", "")
    return f'the key "{where}" cannot be used: {what}' if where else what
