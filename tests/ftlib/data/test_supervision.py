"""The audit of what a language model is taught, on rows made to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import DataError
from ftlib.fingerprint import identify
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import TINY_TEMPLATE, tiny_chat_lm, tiny_chats, tiny_prompts, tiny_rows, write_jsonl
from ftlib.workspace import Workspace

CHATS: Any = [row for row in tiny_chats(60) if len(row["messages"]) < 5]  # type: ignore[arg-type]
FORMAT = {"kind": "chat", "messages": "messages", "max_tokens": 120}
ENDLESS = TINY_TEMPLATE.replace("{{ eos_token }}", "{% if message.role == 'user' %}{{ eos_token }}{% endif %}")
UNPROMPTED = TINY_TEMPLATE.partition("{% if add_generation_prompt")[0]
TWICE = "{{ bos_token }}" + TINY_TEMPLATE


def prepared(
    tmp_path: Path, own: str = TINY_TEMPLATE, rows: Any = CHATS, *, fails: tuple[str, ...] = (), **format: Any
) -> PreparedDataset:
    model = find_model(ModelRef(path=str(tiny_chat_lm(tmp_path / "model", own))))
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    dataset = Dataset.model_validate(
        {
            "source": {"kind": "files", "path": str(path)},
            "format": format if "kind" in format else {**FORMAT, **format},
            "supervision": {"fails": fails},
        }
    )
    work, source = Workspace(tmp_path / "work"), dataset.source
    raw = ingest(IngestJob(name="d", source=source, files=source.pin(), limits=dataset.limits), work)
    job = PreprocessJob(name="d", raw=raw, dataset=dataset, model=model, tokenizer=model.tokenizer, trains=True)
    return preprocess(job, work)


def test_sound_rows_are_counted_and_nothing_is_found(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    audit, facts = data.audit, data.splits["train"]
    assert (audit.rows, audit.tokens, audit.supervised) == (facts.rows, facts.tokens, facts.supervised)
    assert audit.findings == {}
    assert list(audit.notes()) == [
        f"{facts.supervised:,} of {facts.tokens:,} tokens are learnt ({facts.supervised / facts.tokens:.0%})"
    ]


@pytest.mark.parametrize(
    ("template", "fields", "finding", "said"),
    [
        (ENDLESS, {}, "end_not_learnt", "do not teach the model to stop"),
        (TWICE, {}, "double_start", "two tokens that begin a text"),
        (TINY_TEMPLATE, {"max_tokens": 60}, "cut", "lost tokens or turns"),
        (TINY_TEMPLATE, {"template": TINY_TEMPLATE.replace(" : ", " says ").replace("assistant :", "assistant says")},
         "other_template", "another chat template"),
        (UNPROMPTED, {}, "header_learnt", "the role's name"),
    ],
)  # fmt: skip
def test_a_fault_is_counted_and_ends_the_run_where_the_recipe_says_so(
    tmp_path: Path, template: str, fields: dict[str, Any], finding: Any, said: str
) -> None:
    data = prepared(tmp_path / "told", template, **fields)
    rows = data.audit.findings[finding]
    assert {*data.audit.findings} == {finding}
    assert rows == data.splits["train"].rows or finding == "cut"
    assert any(said in note for note in data.audit.notes())
    with pytest.raises(DataError, match=rf"^datasets.d: {rows} of .*{said}.*supervision.fails") as failed:
        prepared(tmp_path / "fails", template, fails=(finding,), **fields)
    assert "\n" not in str(failed.value)
    other = tuple({"no_targets", "cut", "double_start"} - {finding})
    assert prepared(tmp_path / "others", template, fails=other, **fields).audit == data.audit


def test_padding_that_is_the_end_is_told(tmp_path: Path) -> None:
    from ftlib.testing import tiny_chat_tokenizer

    tiny_chat_lm(tmp_path / "model")
    tokenizer = tiny_chat_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftlib.testing.models.tiny_chat_tokenizer", lambda _=None: tokenizer)
        data = prepared(tmp_path)
    assert data.audit.findings["end_is_padding"] == data.splits["train"].rows


def test_rows_that_teach_nothing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of which the tokenizer makes no token, and no end either: an accent that stands alone."""
    from ftlib.testing import tiny_chat_tokenizer

    tokenizer = tiny_chat_tokenizer()
    tokenizer.eos_token = None
    monkeypatch.setattr("ftlib.testing.models.tiny_chat_tokenizer", lambda _=None: tokenizer)
    rows = [{**row, "completion": "\u0301" if i % 4 else row["completion"]} for i, row in enumerate(tiny_prompts(60))]
    how: Any = {"kind": "prompt_completion", "prompt": "prompt", "completion": "completion", "max_tokens": 100}
    data = prepared(tmp_path / "told", rows=rows, **how)
    bare = data.audit.findings["no_targets"]
    assert 0 < bare < data.audit.rows == data.splits["train"].rows
    assert data.splits["train"].supervised > 0
    with pytest.raises(DataError, match=rf"^datasets.d: {bare} of .* teach nothing; correct.*supervision.fails"):
        prepared(tmp_path / "fails", rows=rows, fails=("no_targets",), **how)


def test_completions_and_plain_texts_are_audited_too(tmp_path: Path) -> None:
    prompts: Any = {"kind": "prompt_completion", "prompt": "prompt", "completion": "completion"}
    assert prepared(tmp_path / "a", rows=tiny_prompts(40), max_tokens=100, **prompts).audit.findings == {}
    cut = prepared(tmp_path / "b", rows=tiny_prompts(40), max_tokens=5, **prompts)
    assert cut.audit.findings["end_not_learnt"] == cut.audit.findings["cut"] == cut.audit.rows
    plain = prepared(tmp_path / "c", rows=tiny_rows(40), kind="plain_text", text="text", max_tokens=100)
    assert plain.audit.findings == {}
    assert plain.audit.supervised == plain.audit.tokens - plain.audit.rows


def test_who_says_nothing_of_it_has_the_identity_of_before() -> None:
    dataset = {"source": {"kind": "files", "path": "x"}, "format": {"kind": "plain_text", "text": "text"}}
    assert "supervision" not in identify(Dataset.model_validate(dataset))  # type: ignore[operator]
    assert identify(Dataset.model_validate({**dataset, "supervision": {"fails": ["cut"]}})) != identify(
        Dataset.model_validate(dataset)
    )


def test_rows_that_the_template_refuses_are_in_the_ledger_and_named(tmp_path: Path) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TINY_TEMPLATE
    data = prepared(tmp_path / "some", refuses)
    lost = data.ledger.dropped["template_refuses"]
    assert lost == sum(row["messages"][0]["role"] == "system" for row in CHATS) > 0
    assert data.ledger.rows_in == data.ledger.kept + sum(data.ledger.dropped.values())
    assert data.ledger.kept == sum(facts.rows for facts in data.splits.values())
    with pytest.raises(DataError, match=r"template_refuses.*row [0-9a-f]+: no roles at all; correct the rows$"):
        prepared(tmp_path / "all", "{{ raise_exception('no roles at all') }}")
