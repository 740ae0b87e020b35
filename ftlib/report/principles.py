"""How many answers keep the principles that a phase learnt by: drafts, revisions, and answers before and after it."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.evaluation.principle_facts import Kept, PrincipleFacts, Upheld, UpheldPrinciple
from ftlib.report.content import Cell, Row, Section, Table, texts
from ftlib.wording import counted

_SURE = 0.05


def principles_section(upheld: Sequence[Upheld]) -> Section | None:
    """Return a table of each phase's principles and one of what became of its drafts; None where there are none."""
    if not upheld:
        return None
    tables: list[Table] = []
    for one in upheld:
        rows = [_row(facts, held) for facts, held in zip(one.drafted, one.principles, strict=True)]
        head = ["principle", "said by", "drafts", "revisions", "before", "after", "gained, lost", "p", ""]
        tables.append(Table(head, rows, f"answers that keep each, of {one.phase}", frozenset({2, 3, 4, 5, 6, 7})))
        reasons = sorted({reason for facts in one.drafted for reason in facts.outcomes})
        counts = [
            Row(texts(facts.principle, facts.pairs, *(facts.outcomes.get(reason, 0) for reason in reasons)))
            for facts in one.drafted
        ]
        names = ["principle", "pairs learnt", *(reason.replace("_", " ") for reason in reasons)]
        tables.append(Table(names, counts, "what became of the drafts", frozenset(range(1, len(names)))))
    prompts = max((held.before.answers for one in upheld for held in one.principles), default=0)
    critics = ", ".join(dict.fromkeys(one.critic for one in upheld))
    return Section(
        "principles",
        "Principles",
        f"Drafts and revisions are of the prompts that train. Before and after are what the phase's start and its end "
        f"answer to the same {counted(prompts, 'held-out prompt')}, with the same random numbers; p is McNemar's. The "
        f"critic is {critics}: where it says what is kept, it is a model's opinion.",
        tables=tables,
    )


def _row(facts: PrincipleFacts, held: UpheldPrinciple) -> Row:
    unsure = held.p_value >= _SURE
    verdict = Cell("no difference shown", tone="muted") if unsure else _moved(held)
    cells = texts(facts.principle, facts.by, *map(_share, (facts.drafts, facts.revisions, held.before, held.after)))
    return Row([*cells, *texts(f"{held.gained}, {held.lost}", f"{held.p_value:.2g}"), verdict])


def _moved(held: UpheldPrinciple) -> Cell:
    return Cell("kept more often", tone="good") if held.gained > held.lost else Cell("kept less often", tone="bad")


def _share(kept: Kept) -> str:
    if kept.share is None:
        return "–"
    unclear = f", {kept.unclear} unclear" if kept.unclear else ""
    return f"{kept.share:.0%} ({kept.kept} of {kept.answers}{unclear})"
