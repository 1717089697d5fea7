"""What the sync client asks for: guards by id, commits of announced content, and how deltas were sent."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    for name in ("0003_commit.sql", "0003_upload.sql"):
        run_sql(name)
