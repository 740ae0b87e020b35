"""Where every row went, as a run's page, its terminal and its record say it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset
from ftlib.data.personal_data import Counts, PersonalAction, said
from ftlib.data.row_reasons import reasons, remedies
from ftlib.wording import counted, escaped, table

_DONE: Mapping[PersonalAction, str] = {
    "count": "counted",
    "redact": "redacted",
    "refuse": "refused",
    "ignore": "ignored",
}


def rows_markdown(raw: Mapping[str, RawDataset], prepared: Mapping[str, PreparedDataset]) -> str:
    """Return a table of the rows of each stage of each dataset, and what to do about those that were dropped."""
    lines, dropped = [["dataset", "step", "rows in", "kept", "dropped"]], dict[str, int]()
    for name in raw:
        for step, ledger in (("ingest", raw[name].ledger), ("preprocess", prepared[name].ledger)):
            lines.append([name, step, str(ledger.rows_in), str(ledger.kept), reasons(ledger.dropped) or "none"])
            dropped |= ledger.dropped
    return "\n\n".join([table(lines), *(f"- {escaped(remedy)}" for remedy in remedies(dropped))])


def ledgers(raw: Mapping[str, RawDataset], prepared: Mapping[str, PreparedDataset]) -> dict[str, Ledger]:
    """Return where every dataset's rows went."""
    return {name: whole(raw[name], prepared[name]) for name in raw}


def whole(raw: RawDataset, prepared: PreparedDataset) -> Ledger:
    """Return where a dataset's rows went in both of its stages."""
    dropped = dict(Counter(raw.ledger.dropped) + Counter(prepared.ledger.dropped))
    return Ledger(rows_in=raw.ledger.rows_in, kept=prepared.ledger.kept, dropped=dropped)


def rows_lines(by_dataset: Mapping[str, Ledger]) -> list[str]:
    """Return a line for every dataset of which rows were dropped."""
    return [
        f"rows       {name}: {ledger.kept:,} of {counted(ledger.rows_in, 'row')} kept; {reasons(ledger.dropped)}"
        for name, ledger in by_dataset.items()
        if ledger.dropped
    ]


def personal_lines(raw: Mapping[str, RawDataset], datasets: Mapping[str, Dataset]) -> list[str]:
    """Return a line for every dataset in whose rows something looks like personal data, and what became of it."""
    lines: list[str] = []
    for name, data in raw.items():
        asked, by_action = datasets[name].personal_data, dict[str, Counts]()
        for column, kinds in (data.personal_data or {}).items():
            by_action.setdefault(_DONE[asked.action(column)], {})[column] = kinds
        found = "; ".join(f"{action} {', '.join(said(counts))}" for action, counts in sorted(by_action.items()))
        lines += [f"personal   {name}: {found}"] if found else []
    return lines


def rows_record(by_dataset: Mapping[str, Ledger]) -> dict[str, Any]:
    """Return the same for scripts."""
    return {name: ledger.model_dump() for name, ledger in by_dataset.items()}
