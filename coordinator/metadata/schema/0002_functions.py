"""The functions behind the hot paths: each decides and writes in one round trip, under the namespace's lock."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    for name in ("0002_walk.sql", "0002_commit.sql", "0002_upload.sql", "0002_block.sql", "0002_tree.sql"):
        run_sql(name)
