"""Results for people: one line a measure with its target, what was measured, the roofline, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Document = dict[str, Any]


def print_results(documents: Sequence[Document], *, only_targets: bool) -> None:
    """A table of all measures, or of those that have a target; below it CPU by process kind."""
    console = Console(width=150)
    table = Table("benchmark", "measure", "target", "median", "min … max", "roofline", "ratio", "met")
    for row in _measure_rows(documents, only_targets=only_targets):
        table.add_row(*row)
    console.print(table)
    _print_by_kind(console, documents, "cpu", "CPU by process kind")
    _print_by_kind(console, documents, "memory_mb", "Memory by process kind, MB")
    for document in documents:
        busy = document["others_cpu_share"]
        if busy > 0.1:
            console.print(f"{document['bench']}: other programs took {busy:.0%} of the machine meanwhile.")
        for note in document["notes"]:
            console.print(f"{document['bench']}: {note}")


def print_comparison(before: Sequence[Document], after: Sequence[Document]) -> None:
    """Every measure that both have: medians and their ratio."""
    console = Console(width=150)
    table = Table("benchmark", "measure", "unit", "before", "after", "after / before")
    known = {(one["bench"], row["name"]): row for one in before for row in one["measures"]}
    for document in after:
        for row in document["measures"]:
            earlier = known.get((document["bench"], row["name"]))
            if earlier is not None:
                ratio = f"{row['median'] / earlier['median']:.3f}" if earlier["median"] else "–"
                table.add_row(
                    document["bench"], row["name"], row["unit"], f"{earlier['median']:g}", f"{row['median']:g}", ratio
                )
    console.print(table)
    for label, documents in (("before", before), ("after", after)):
        for document in documents[:1]:
            console.print(f"{label}: {document['machine']['model']}, commit {document['commit']}")


def _measure_rows(documents: Sequence[Document], *, only_targets: bool) -> Iterable[Sequence[str]]:
    for document in documents:
        for row in document["measures"]:
            target = row.get("target")
            if only_targets and target is None:
                continue
            met = row.get("met")
            yield (
                document["bench"],
                row["name"],
                "" if target is None else _target(target),
                f"{row['median']:g} {row['unit']}",
                "" if len(row["values"]) == 1 else f"{row['min']:g} … {row['max']:g}",
                f"{row['roofline']:g}" if row.get("roofline") else "",
                f"{row['ratio_to_roofline']:.2f}" if row.get("ratio_to_roofline") else "",
                "" if met is None else ("yes" if met else "NO"),
            )


def _target(target: dict[str, float | None]) -> str:
    return f"≥ {target['low']:g}" if target["low"] is not None else f"≤ {target['high']:g}"


def _print_by_kind(console: Console, documents: Sequence[Document], key: str, title: str) -> None:
    rows = [(document["bench"], name, by_kind) for document in documents for name, by_kind in document[key].items()]
    if not rows:
        return
    kinds = list(dict.fromkeys(kind for _, _, by_kind in rows for kind in by_kind))
    table = Table("benchmark", "what", *kinds, title=title)
    for bench, name, by_kind in rows:
        table.add_row(bench, name, *(f"{by_kind[kind]:g}" if kind in by_kind else "" for kind in kinds))
    console.print(table)
