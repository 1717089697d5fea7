"""The tables of a synced folder's database.

The models only define them: the look-ups beside them are plain SQL, since one through a model takes ten times as long
and a plan needs many. The trees and the facts are written by store.py; blocks.py, uploads.py and told.py each own the
tables that they are named after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import peewee

FORMAT_VERSION: Final = 1

_database: Final = peewee.DatabaseProxy()


class _Table(peewee.Model):
    class Meta:
        database = _database
        legacy_table_names = False


class Remote(_Table):
    id = peewee.IntegerField(primary_key=True)
    parent_id = peewee.IntegerField(null=True)
    name = peewee.TextField()
    key = peewee.TextField()
    is_folder = peewee.IntegerField()
    version = peewee.IntegerField()
    size = peewee.IntegerField()
    digest = peewee.BlobField(null=True)
    executable = peewee.IntegerField()
    mtime_ns = peewee.IntegerField(null=True)
    skipped = peewee.IntegerField()

    class Meta:
        indexes = ((("parent_id", "key"), False),)


class Local(_Table):
    id = peewee.IntegerField(primary_key=True)
    parent_id = peewee.IntegerField(null=True)
    name = peewee.TextField()
    key = peewee.TextField()
    is_folder = peewee.IntegerField()
    size = peewee.IntegerField()
    mtime_ns = peewee.IntegerField()
    ctime_ns = peewee.IntegerField()
    inode = peewee.IntegerField()
    device = peewee.IntegerField()
    digest = peewee.BlobField(null=True)
    executable = peewee.IntegerField()
    problem = peewee.TextField(null=True)

    class Meta:
        indexes = ((("parent_id", "key"), False), (("inode",), False))


class Synced(_Table):
    id = peewee.IntegerField(primary_key=True)
    local_id = peewee.IntegerField(unique=True)
    parent_id = peewee.IntegerField(null=True, index=True)
    name = peewee.TextField()
    is_folder = peewee.IntegerField()
    version = peewee.IntegerField()
    digest = peewee.BlobField(null=True, index=True)
    executable = peewee.IntegerField()


class DirtyRemote(_Table):
    id = peewee.IntegerField(primary_key=True)


class DirtyLocal(_Table):
    id = peewee.IntegerField(primary_key=True)


class Listed(_Table):
    """Ids that the listing under way has told; only filled while one is (remote/side.py)."""

    id = peewee.IntegerField(primary_key=True)


class Sending(_Table):
    """What an upload was about to store, so that its unseen success is not taken for somebody else's edit."""

    local_id = peewee.IntegerField(primary_key=True)
    remote_id = peewee.IntegerField(null=True)
    digest = peewee.BlobField()
    executable = peewee.IntegerField()


class SentAs(_Table):
    """Under which id a version was announced that is not here yet: how it was sent may save fetching it whole."""

    remote_id = peewee.IntegerField(primary_key=True)
    version = peewee.IntegerField()
    upload_id = peewee.TextField()


class Recipe(_Table):
    """A local file's content as block hashes, 32 bytes each."""

    local_id = peewee.IntegerField(primary_key=True)
    digest = peewee.BlobField()
    hashes = peewee.BlobField()


class BlockPlace(_Table):
    """Where blocks lie in local files; `prefix` is the first eight bytes of the hash, the recipe tells the rest."""

    prefix = peewee.IntegerField()
    local_id = peewee.IntegerField()
    position = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("prefix", "local_id", "position")
        without_rowid = True


class Signature(_Table):
    """delta.py's signatures of a local file's content."""

    local_id = peewee.IntegerField(primary_key=True)
    digest = peewee.BlobField()
    data = peewee.BlobField()


class Conflict(_Table):
    id = peewee.AutoField()
    path = peewee.TextField()
    copy_path = peewee.TextField()
    at = peewee.FloatField()


class Problem(_Table):
    """Why a path is not synced now; `path` is relative to the folder."""

    path = peewee.TextField(primary_key=True)
    reason = peewee.TextField()
    source = peewee.TextField()


class Failure(_Table):
    """The last errors, newest last."""

    id = peewee.AutoField()
    at = peewee.FloatField()
    path = peewee.TextField(null=True)
    message = peewee.TextField()


class Fact(_Table):
    """Single values: the cursor, the remote root."""

    name = peewee.TextField(primary_key=True)
    value = peewee.TextField()


TABLES: Final = (
    *(Remote, Local, Synced, DirtyRemote, DirtyLocal, Listed, Sending, SentAs, Recipe, BlockPlace, Signature),
    *(Conflict, Problem, Failure, Fact),
)

# From format version n to n + 1, in place: MIGRATIONS[n].
MIGRATIONS: Final[dict[int, Callable[[peewee.Database], None]]] = {}
