"""The report's section on principles: shares, who says so, and what may be luck."""

from __future__ import annotations

from ftlib.evaluation.principle_facts import Kept, PrincipleFacts, Upheld, UpheldPrinciple
from ftlib.report.principles import principles_section


def test_shares_before_and_after_stand_in_a_row() -> None:
    assert principles_section(()) is None
    drafted = PrincipleFacts(
        principle="Be short.",
        by="checker",
        drafts=Kept(answers=100, kept=40),
        revisions=Kept(answers=60, kept=45, unclear=3),
        pairs=58,
        outcomes={"kept": 40, "revised": 60},
    )
    held = {"principle": "Be short.", "by": "checker", "before": Kept(answers=50, kept=20)}
    surely = UpheldPrinciple(**held, after=Kept(answers=50, kept=40), gained=22, lost=2, p_value=0.00004)
    luck = UpheldPrinciple(**held, after=Kept(answers=50, kept=22), gained=5, lost=3, p_value=0.73)
    section = principles_section([Upheld(phase="tune", critic="it", drafted=(drafted,) * 2, principles=(surely, luck))])
    assert section is not None
    assert "50 held-out prompts" in section.lead
    first, second = [[cell.text for cell in row.cells] for row in section.tables[0].rows]
    assert first[2:] == [
        *("40% (40 of 100)", "75% (45 of 60, 3 unclear)", "40% (20 of 50)", "80% (40 of 50)"),
        *("22, 2", "4e-05", "kept more often"),
    ]
    assert second[-1] == "no difference shown"
    assert [cell.text for cell in section.tables[1].rows[0].cells] == ["Be short.", "58", "40", "60"]
