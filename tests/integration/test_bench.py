"""`python -m bench` runs and speaks JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.kit.cluster import ROOT, child_environment


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT, env=child_environment(),
    )  # fmt: skip


def test_roofline_gives_one_json_document(tmp_path: Path) -> None:
    done = _bench("roofline", "--size", "8MB", "--repeat", "1", "--dir", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["bench"] == "roofline"
    assert document["machine"]["cores"] > 0 and document["versions"]["python"] and document["commit"]
    medians = {row["name"]: row["median"] for row in document["measures"]}
    assert medians["upload_cpu"] > medians["sha256_cpu"] > 0
    assert document["roofline"]["download_cpu_s_per_gb"] > 0
    assert not list(tmp_path.glob("roofline.*"))


def test_stored_results_compare(tmp_path: Path) -> None:
    for _ in range(2):
        done = _bench("roofline", "--size", "8MB", "--repeat", "1", "--dir", str(tmp_path), "--json", str(tmp_path))
        assert done.returncode == 0, done.stderr
    stored = done.stderr.splitlines()[-1]
    compared = _bench("--compare", stored, stored)
    assert compared.returncode == 0 and "1.000" in compared.stdout


def test_the_list_names_every_benchmark() -> None:
    listed = _bench("--list").stdout
    assert all(name in listed for name in ("bulk", "download", "degraded", "small", "metadata", "longpoll", "memory"))
