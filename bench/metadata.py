"""Do commits and listings slow down as a namespace fills: 10^3, 10^4, 10^5 and (with --full) 10^6 files?

The namespace grows step by step in one appliance. Half of its files lie in one flat folder, the others in folders of a
hundred. Files are put there in bulk by SQL that writes exactly the rows of a commit (`file`, `file_version`,
`version_block`, `journal`, and the counters of `namespace` and `user_account`), all with one block that a real upload
has stored; the tables are vacuumed and a checkpoint made, as happens by itself over the weeks that such growth takes.

Measured over HTTP, one request at a time: commit of one new file whose block is known, in the flat folder, and pages of
a thousand entries from random places of it. Expected: every step is an index look-up, so a few per cent from the
deeper trees. 10^6 files take some three minutes to load.
"""

from __future__ import annotations

import json
import tomllib
from random import Random
from typing import Any, Final
from urllib.parse import quote

import msgspec
import psycopg

from bench.corpus import SEED
from bench.load import Calls
from bench.result import Options, Outcome, Target, percentile
from bench.roofline import floor
from bench.service import BenchFailed, Service, combine, running_service

GROWTH: Final = Target(high=1.3)
PAGE_ENTRIES: Final = 1000
PER_FOLDER: Final = 100
FLAT: Final = "/flat"
_LOAD_TIMEOUT_S: Final = 1200


class Facts(msgspec.Struct, frozen=True):
    """What the loaded rows refer to: the namespace, its owner, and a file that a real commit made."""

    namespace_id: int
    account_id: int
    root_id: int
    flat_id: int
    sample_id: int
    block_hash: str
    size_bytes: int


def run(options: Options) -> Outcome:
    """Grow, measure, grow."""
    steps = [10**3, 10**4] if options.quick else [10**3, 10**4, 10**5, *([10**6] if options.full else [])]
    calls = options.number(200)
    outcome, _ = floor(options.folder)
    found: dict[int, dict[str, list[float]]] = {}
    with running_service(options.folder) as service:
        facts = _store_sample(service)
        loaded = 0
        for step in steps:
            _grow(service, facts, loaded, step)
            loaded = step
            found[step] = _measure(service, facts, step, calls, options.repeats())
    for step, medians in found.items():
        for name, values in medians.items():
            outcome.add(f"{name}_at_1e{len(str(step)) - 1}", "ms", values)
    for name in ("commit_p50", "list_p50"):
        first, last = (sorted(found[step][name]) for step in (steps[0], steps[-1]))
        growth = last[len(last) // 2] / first[len(first) // 2]
        # The target is for 10^6 against 10^3; a shorter run is held against it as well.
        outcome.add(f"{name}_growth_to_1e{len(str(steps[-1])) - 1}", "×", [growth], GROWTH)
    return outcome


def _store_sample(service: Service) -> Facts:
    """One real upload, whose rows the loaded ones repeat."""
    session = service.session()
    service.make_folder(FLAT)
    data = Random(SEED).randbytes(10_000)
    answer = session.put(f"{FLAT}/sample", data)
    if answer.status >= 300:
        raise BenchFailed(f"the sample was not stored: {answer.status} {answer.body[:300]!r}")
    with _connect(service) as database:
        row = database.execute(
            """SELECT f.namespace_id, n.account_id, n.root_id, f.parent_id, f.id, encode(b.hash, 'hex'), f.size_bytes
               FROM file f JOIN namespace n ON n.id = f.namespace_id
               JOIN version_block v ON v.namespace_id = f.namespace_id AND v.file_id = f.id
               JOIN block b ON b.id = v.block_id WHERE f.id = %s""",
            [answer.document["id"]],
        ).fetchone()
    assert row is not None
    return Facts(*row)


def _grow(service: Service, facts: Facts, have: int, want: int) -> None:
    """From `have` loaded files to `want`; file numbers go on where they ended."""
    with _connect(service) as database:
        database.execute(_LOAD, {**msgspec.structs.asdict(facts), "have": have, "want": want, "each": PER_FOLDER})
        for table in ("file", "file_version", "version_block", "journal"):
            database.execute(f"VACUUM (ANALYZE) {table}")
        database.execute("CHECKPOINT")


def _measure(service: Service, facts: Facts, step: int, calls: int, repeats: int) -> dict[str, list[float]]:
    """Medians in ms, one for each repeat; the first round is the warm-up."""
    medians: dict[str, list[float]] = {"commit_p50": [], "list_p50": []}
    for number in range(repeats + 1):
        commits = [_commit_call(facts, f"{FLAT}/new {step} {number} {index}") for index in range(calls)]
        listings = _listing_calls(service, step, max(8, calls // 10), Random(SEED + number))
        for name, jobs in (("commit_p50", commits), ("list_p50", listings)):
            _, reports = service.measured_load(Calls(service.account, jobs))
            if number > 0:
                medians[name].append(percentile(combine(reports), 50) * 1000)
    return medians


def _commit_call(facts: Facts, path: str) -> tuple[str, str, str | None]:
    entry = {"path": path, "size": facts.size_bytes, "blocks": [facts.block_hash], "base_version": 0}
    return ("POST", "/api/v1/files/commit", json.dumps({"entries": [entry]}))


def _listing_calls(service: Service, step: int, count: int, random: Random) -> list[tuple[str, str, str | None]]:
    """Pages of the flat folder. Where it has several, their marks are learned by walking some of them first."""
    address = f"/api/v1/files/list_folder?path={quote(FLAT, safe='')}&limit={PAGE_ENTRIES}"
    session, pages = service.session(), [address]
    for _ in range(min(20, step // 2 // PAGE_ENTRIES)):
        answer = session.call("GET", pages[-1].partition("?")[0], query=_query(pages[-1]))
        mark = answer.document.get("next_page")
        if mark is None:
            break
        pages.append(f"{address}&page={quote(mark, safe='')}")
    full = pages[:-1] if len(pages) > 1 else pages
    return [("GET", random.choice(full), None) for _ in range(count)]


def _query(address: str) -> dict[str, object]:
    from urllib.parse import parse_qsl  # noqa: PLC0415

    return dict(parse_qsl(address.partition("?")[2]))


def _connect(service: Service) -> psycopg.Connection[Any]:
    """The appliance's database as its workers reach it."""
    config = tomllib.loads((service.root / "config" / "worker1.toml").read_text())
    return psycopg.connect(
        config["database"], autocommit=True, options=f"-c statement_timeout={_LOAD_TIMEOUT_S * 1000}"
    )


# Numbers have+1 to want. Odd ones go to the flat folder, even ones to folders of `each`, which are made as needed.
# Everything but names, ids and numbers is the sample's.
_LOAD: Final = """
WITH sample AS (
    SELECT f.*, v.device_id, b.block_id FROM file f
    JOIN file_version v ON v.namespace_id = f.namespace_id AND v.file_id = f.id
    JOIN version_block b ON b.namespace_id = f.namespace_id AND b.file_id = f.id
    WHERE f.namespace_id = %(namespace_id)s AND f.id = %(sample_id)s LIMIT 1
), before AS (
    SELECT journal_seq AS seq FROM namespace WHERE id = %(namespace_id)s
), folder AS MATERIALIZED (
    SELECT d AS number, nextval('file_id_seq') AS id
    FROM generate_series((%(have)s / 2) / %(each)s, (%(want)s - 1) / 2 / %(each)s) d
), new AS MATERIALIZED (
    SELECT n.number, nextval('file_id_seq') AS id,
           coalesce(d.id, %(flat_id)s) AS parent_id,
           CASE WHEN d.id IS NULL THEN '/flat/' ELSE '/folder ' || d.number || ' ' || %(have)s || '/' END AS above,
           'file ' || lpad(n.number::text, 8, '0') || '.bin' AS name
    FROM generate_series(%(have)s + 1, %(want)s) n(number)
    LEFT JOIN folder d ON n.number %% 2 = 0 AND d.number = (n.number - 1) / 2 / %(each)s
), folders AS (
    INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, modified_at, modified_by)
    SELECT %(namespace_id)s, d.id, %(root_id)s, 'folder ' || d.number || ' ' || %(have)s,
           'folder ' || d.number || ' ' || %(have)s, true, 0, now(), s.modified_by
    FROM folder d, sample s
), files AS (
    INSERT INTO file (namespace_id, id, parent_id, name, name_key, is_folder, version, size_bytes, content_hash,
                      executable, modified_at, client_modified_at, modified_by)
    SELECT %(namespace_id)s, n.id, n.parent_id, n.name, n.name, false, 1, s.size_bytes, s.content_hash, s.executable,
           now(), s.client_modified_at, s.modified_by
    FROM new n, sample s
), versions AS (
    INSERT INTO file_version (namespace_id, file_id, version, size_bytes, content_hash, executable, modified_at,
                              client_modified_at, modified_by, device_id)
    SELECT %(namespace_id)s, n.id, 1, s.size_bytes, s.content_hash, s.executable, now(), s.client_modified_at,
           s.modified_by, s.device_id
    FROM new n, sample s
), recipes AS (
    INSERT INTO version_block (namespace_id, file_id, version, block_index, block_id)
    SELECT %(namespace_id)s, n.id, 1, 0, s.block_id FROM new n, sample s
), entries AS (
    INSERT INTO journal (namespace_id, seq, op, file_id, parent_id, name, path, is_folder, version, size_bytes,
                         content_hash, executable, modified_at, client_modified_at, modified_by, device_id)
    SELECT %(namespace_id)s, b.seq + d.number - (%(have)s / 2) / %(each)s + 1, 'folder', d.id, %(root_id)s,
           'folder ' || d.number || ' ' || %(have)s, '/folder ' || d.number || ' ' || %(have)s, true, 0, 0, NULL, false,
           now(), NULL, s.modified_by, s.device_id
    FROM folder d, sample s, before b
    UNION ALL
    SELECT %(namespace_id)s, b.seq + (SELECT count(*) FROM folder) + n.number - %(have)s, 'put', n.id, n.parent_id,
           n.name, n.above || n.name, false, 1, s.size_bytes, s.content_hash, s.executable, now(),
           s.client_modified_at, s.modified_by, s.device_id
    FROM new n, sample s, before b
), used AS (
    UPDATE user_account SET used_bytes = used_bytes + (%(want)s - %(have)s) * %(size_bytes)s::bigint
    WHERE id = %(account_id)s
)
UPDATE namespace SET journal_seq = journal_seq + (SELECT count(*) FROM folder) + %(want)s - %(have)s
WHERE id = %(namespace_id)s
"""
