"""Do commits and listings slow down as a namespace fills: 10^3, 10^4, 10^5 and (with --full) 10^6 files?

The namespace grows step by step in one appliance, while a second one beside it stays at 10^3 files: each size is
measured in turns with it, so that a machine whose speed drifts over the minutes of loading does not look like growth.
The first thousand of its files and half of the others lie in one flat folder, the rest in folders of a hundred. Files
are put there in bulk by SQL that writes exactly the rows of an upload (`block`, `file`, `file_version`,
`version_block`, `journal`, and the counters of `namespace` and `user_account`), copied from those of a real one, each
file with a block of its own whose shards do not exist. Then the tables are vacuumed and a checkpoint is made, as
happens by itself over the weeks that such growth takes.

Measured over HTTP, one request at a time: commit of one new file whose block is known, in the flat folder, and pages
of a thousand entries of it. Expected: every step is an index look-up, so a few per cent from the
deeper trees. 10^6 files take some three minutes to load.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import psycopg

from bench.corpus import SEED
from bench.load import Calls
from bench.processes import Usage
from bench.result import Options, Outcome, Target, percentile
from bench.roofline import floor
from bench.service import BenchFailed, Service, combine, running_service

GROWTH: Final = Target(high=1.3)
PAGE_ENTRIES: Final = 1000
PER_FOLDER: Final = 100
FLAT: Final = "/flat"
PAGES_WALKED: Final = 20
_LISTING: Final = "/api/v1/files/list_folder"
_LOAD_TIMEOUT_S: Final = 1200
_SAMPLE: Final = Random(SEED).randbytes(10_000)
_SAMPLE_HASH: Final = hashlib.sha256(_SAMPLE).hexdigest()


class Facts(msgspec.Struct, frozen=True):
    """What the loaded rows refer to: the namespace, its owner, and a file that a real commit made."""

    namespace_id: int
    account_id: int
    root_id: int
    flat_id: int
    sample_id: int
    size_bytes: int


@dataclass
class _Found:
    """One call in one appliance: its medians in ms, one for each repeat, and what the repeats used."""

    p50_ms: list[float] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        return statistics.median(usage.cpu_total_s for usage in self.usages)


@dataclass(frozen=True)
class _Subject:
    """An appliance whose namespace holds `files` loaded files."""

    service: Service
    facts: Facts
    files: int


def run(options: Options) -> Outcome:
    """Grow, measure against the one that stays small, grow."""
    steps = [10**3, 10**4] if options.quick else [10**3, 10**4, 10**5, *([10**6] if options.full else [])]
    outcome, _ = floor(options.folder)
    calls = {"commit": options.number(200), "list": max(8, options.number(200) // 4)}
    with _loaded(options.folder / "small", steps[0]) as small, _loaded(options.folder / "grown", steps[0]) as big:
        for have, step in pairwise(steps):
            _grow(big.service, big.facts, have, step)
            pairs = _measure_in_turns((small, replace(big, files=step)), options.repeats(), calls)
            for name, (before, after) in pairs.items():
                at = f"{len(str(step)) - 1}"
                outcome.add(f"{name}_p50_at_1e3_beside_1e{at}", "ms", before.p50_ms)
                outcome.add(f"{name}_p50_at_1e{at}", "ms", after.p50_ms)
                outcome.add_cpu(f"{name} at 1e3 beside 1e{at} CPU-ms/call", before.usages, calls[name] / 1000)
                outcome.add_cpu(f"{name} at 1e{at} CPU-ms/call", after.usages, calls[name] / 1000)
                ratios = [late / early for early, late in zip(before.p50_ms, after.p50_ms, strict=True)]
                # The target is for 10^6 against 10^3; a shorter run is held against it as well.
                outcome.add(f"{name}_p50_growth_to_1e{at}", "×", ratios, GROWTH if step == steps[-1] else None)
                outcome.add(f"{name}_cpu_growth_to_1e{at}", "×", [after.cpu_s / before.cpu_s])
    return outcome


@contextmanager
def _loaded(folder: Path, files: int) -> Iterator[_Subject]:
    with running_service(folder) as service:
        facts = _store_sample(service)
        _grow(service, facts, 0, files)
        yield _Subject(service, facts, files)


def _store_sample(service: Service) -> Facts:
    """One real upload, whose rows the loaded ones repeat."""
    session = service.session()
    service.make_folder(FLAT)
    answer = session.put(f"{FLAT}/sample", _SAMPLE)
    if answer.status >= 300:
        raise BenchFailed(f"the sample was not stored: {answer.status} {answer.body[:300]!r}")
    with _connect(service) as database:
        row = database.execute(
            """SELECT f.namespace_id, n.account_id, n.root_id, f.parent_id, f.id, f.size_bytes
               FROM file f JOIN namespace n ON n.id = f.namespace_id WHERE f.id = %s""",
            [answer.document["id"]],
        ).fetchone()
    assert row is not None
    return Facts(*row)


def _grow(service: Service, facts: Facts, have: int, want: int) -> None:
    """From `have` loaded files to `want`; file numbers go on where they ended."""
    with _connect(service) as database:
        database.execute(_LOAD, {**msgspec.structs.asdict(facts), "have": have, "want": want, "each": PER_FOLDER})
        for table in ("block", "file", "file_version", "version_block", "journal"):
            database.execute(f"VACUUM (ANALYZE) {table}")
        database.execute("CHECKPOINT")


def _measure_in_turns(
    subjects: tuple[_Subject, _Subject], repeats: int, calls: dict[str, int]
) -> dict[str, tuple[_Found, _Found]]:
    """Commits and listings in both; the first round is the warm-up."""
    found = {name: (_Found(), _Found()) for name in calls}
    for number in range(repeats + 1):
        for name, count in calls.items():
            for subject, one in zip(subjects, found[name], strict=True):
                random = Random(SEED + number)
                if name == "commit":
                    job = _commit_calls(subject, number, count, random)
                else:
                    job = _listing_calls(subject.service, count, random)
                usage, reports = subject.service.measured_load(Calls(subject.service.account, job))
                if number > 0:
                    one.p50_ms.append(percentile(combine(reports), 50) * 1000)
                    one.usages.append(usage)
    return found


def _commit_calls(subject: _Subject, number: int, count: int, random: Random) -> list[tuple[str, str, str | None]]:
    """New files in the flat folder; round `number` beside every size of the other appliance."""
    paths = [f"{FLAT}/new {random.getrandbits(64):x} {number} {index} {time.monotonic_ns()}" for index in range(count)]
    return [_commit_call(subject.facts, path, random.randint(0, subject.files)) for path in paths]


def _commit_call(facts: Facts, path: str, number: int) -> tuple[str, str, str | None]:
    """A new file with the block of the loaded file `number`, or of the sample when that is 0."""
    block_hash = hashlib.sha256(f"bench {number}".encode()).hexdigest() if number else _SAMPLE_HASH
    entry = {"path": path, "size": facts.size_bytes, "blocks": [block_hash], "base_version": 0}
    return ("POST", "/api/v1/files/commit", json.dumps({"entries": [entry]}))


def _listing_calls(service: Service, count: int, random: Random) -> list[tuple[str, str, str | None]]:
    """Full pages of the flat folder: the first, and some that follow one another after it."""
    query: dict[str, object] = {"path": FLAT, "limit": PAGE_ENTRIES}
    session, queries = service.session(), [query]
    while len(queries) < PAGES_WALKED:
        page = session.call("GET", _LISTING, query=queries[-1]).document
        if page.get("next_page") is None:
            queries = queries[:-1] or queries  # the last one is not full
            break
        queries.append({**query, "page": page["next_page"]})
    return [("GET", f"{_LISTING}?{urlencode(random.choice(queries))}", None) for _ in range(count)]


def _connect(service: Service) -> psycopg.Connection[Any]:
    """The appliance's database as its workers reach it."""
    config = tomllib.loads((service.root / "config" / "worker1.toml").read_text())
    return psycopg.connect(
        config["database"], autocommit=True, options=f"-c statement_timeout={_LOAD_TIMEOUT_S * 1000}"
    )


# Numbers have+1 to want. The first thousand and the odd ones go to the flat folder, the others to folders of `each`,
# which are made as needed. Everything but names, ids and hashes is the sample's.
_LOAD: Final = """
WITH sample AS (
    SELECT f.*, v.device_id, b.block_id FROM file f
    JOIN file_version v ON v.namespace_id = f.namespace_id AND v.file_id = f.id
    JOIN version_block b ON b.namespace_id = f.namespace_id AND b.file_id = f.id
    WHERE f.namespace_id = %(namespace_id)s AND f.id = %(sample_id)s LIMIT 1
), before AS (
    SELECT journal_seq AS seq FROM namespace WHERE id = %(namespace_id)s
), folder AS MATERIALIZED (
    SELECT row_number() OVER () AS ordinal, d AS number, nextval('file_id_seq') AS id,
           'folder ' || d || ' ' || %(have)s AS name
    FROM generate_series(greatest(%(have)s, 1000) / 2 / %(each)s, (%(want)s - 1) / 2 / %(each)s) d
    WHERE %(want)s > 1000
), new AS MATERIALIZED (
    SELECT n.number, nextval('file_id_seq') AS id, coalesce(d.id, %(flat_id)s) AS parent_id,
           coalesce('/' || d.name, '/flat') || '/' AS above, 'file ' || lpad(n.number::text, 8, '0') || '.bin' AS name,
           decode('0190', 'hex') || int8send(n.number) || substr(sha256(int8send(n.number)), 1, 6) AS block_id,
           sha256(convert_to('bench ' || n.number, 'UTF8')) AS hash
    FROM generate_series(%(have)s::bigint + 1, %(want)s) n(number)
    LEFT JOIN folder d ON n.number > 1000 AND n.number %% 2 = 0 AND d.number = (n.number - 1) / 2 / %(each)s
), blocks AS (
    INSERT INTO block (id, account_id, hash, group_id, group_epoch, k, m, codec, plain_size, sealed_size, sealed_digest,
                       wrapped_key)
    SELECT n.block_id, b.account_id, n.hash, b.group_id, b.group_epoch, b.k, b.m, b.codec, b.plain_size, b.sealed_size,
           b.sealed_digest, b.wrapped_key
    FROM new n, sample s JOIN block b ON b.id = s.block_id
), folders AS (
    INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, modified_at, modified_by)
    SELECT %(namespace_id)s, d.id, %(root_id)s, d.name, d.name, true, 0, now(), s.modified_by
    FROM folder d, sample s
), files AS (
    INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, size_bytes, content_hash,
                      executable, modified_at, client_modified_at, modified_by)
    SELECT %(namespace_id)s, n.id, n.parent_id, n.name, n.name, false, 1, s.size_bytes, sha256(n.hash), s.executable,
           now(), s.client_modified_at, s.modified_by
    FROM new n, sample s
), versions AS (
    INSERT INTO file_version (namespace_id, file_id, version, size_bytes, content_hash, executable, modified_at,
                              client_modified_at, modified_by, device_id)
    SELECT %(namespace_id)s, n.id, 1, s.size_bytes, sha256(n.hash), s.executable, now(), s.client_modified_at,
           s.modified_by, s.device_id
    FROM new n, sample s
), recipes AS (
    INSERT INTO version_block (namespace_id, file_id, version, block_index, block_id)
    SELECT %(namespace_id)s, n.id, 1, 0, n.block_id FROM new n
), entries AS (
    INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                         content_hash, executable, modified_at, client_modified_at, modified_by, device_id)
    SELECT %(namespace_id)s, b.seq + d.ordinal, 'folder', d.id, %(root_id)s, d.name, '/' || d.name, true, 0, 0, NULL,
           false, now(), NULL, s.modified_by, s.device_id
    FROM folder d, sample s, before b
    UNION ALL
    SELECT %(namespace_id)s, b.seq + (SELECT count(*) FROM folder) + n.number - %(have)s, 'put', n.id, n.parent_id,
           n.name, n.above || n.name, false, 1, s.size_bytes, sha256(n.hash), s.executable, now(),
           s.client_modified_at, s.modified_by, s.device_id
    FROM new n, sample s, before b
), used AS (
    UPDATE user_account SET used_bytes = used_bytes + (%(want)s - %(have)s) * %(size_bytes)s::bigint
    WHERE id = %(account_id)s
)
UPDATE namespace SET journal_seq = journal_seq + (SELECT count(*) FROM folder) + %(want)s - %(have)s
WHERE id = %(namespace_id)s
"""
