"""Pairs by written principles: a critic that is a rule, models as they are, a run that is killed, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.formats.chat import Chat
from ftlib.data.formats.pairs_of_answers import pairs_of_answers
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.prepared import split_file
from ftlib.data.prompts import prompts_of
from ftlib.data.sources.files import Files
from ftlib.errors import DataError, RecipeError
from ftlib.evaluation import revisions
from ftlib.evaluation.forward_pass import Share
from ftlib.evaluation.revision_prompts import write_prompts
from ftlib.evaluation.revisions import RevisePlan, Settings, Text, Turns, draft_and_revise, verdict
from ftlib.kinds.loading import load_processor
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.on_ray.evaluator import _Spec, _spec
from ftlib.stages.base import BaseJob, base
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.revise import ReviseJob, revise
from ftlib.stages.uphold import UpholdJob, uphold
from ftlib.testing import tiny_chat_lm, tiny_rows, write_jsonl
from ftlib.testing.models import TINY_TEMPLATE
from ftlib.training.compute import Compute
from ftlib.training.principles import CRITIQUE, REVISION, read_principles
from ftlib.workspace import Workspace

PRINCIPLES = ("End without a full stop.", "Say please.")
SHORT = ("a card", "please")
CRITICISE, REVISE = "is it {principle}", "make it {principle}"
"""A tiny model reads 128 tokens, and spells words that it does not know."""
FORMATS: dict[str, Any] = {
    "texts": PromptCompletion(prompt="text", completion="answer", max_tokens=120, separator=" >"),
    "chats": Chat(instruction="text", output="answer", max_tokens=128),
}


class Rule:
    """Writes by rule: drafts, says whether a principle is kept, and revises so that it is."""

    def __init__(self, *, cut: bool = False) -> None:
        self.asked: list[list[str]] = []
        self.cut = cut

    def write(
        self,
        asked: Sequence[Turns],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        words: Sequence[str] = (),
    ) -> list[Text | None]:
        assert len(seeds) == len(asked)
        assert bool(words) == ("Yes or No" in asked[0][-1]["content"])
        return [self._one([str(turn["content"]) for turn in turns], max_new_tokens) for turns in asked]

    def _one(self, said: list[str], most: int) -> Text | None:
        self.asked.append(said)
        prompt, last = said[0], said[-1]
        if "long" in prompt:
            return None
        if len(said) == 1:
            return Text("" if "silent" in prompt else f"{prompt}.", not self.cut)
        draft, principle = said[1], "please" if "Say please" in last else "stop"
        if "Yes or No" in last:
            kept = "please" in draft if principle == "please" else not draft.endswith(".")
            words = "hm" if "odd" in prompt else f"{'Yes' if kept else 'No'}, it says {draft!r}"
            return Text(" ".join(words.split()[: most + 1]), True)
        revised = f"please {draft}" if principle == "please" else draft.rstrip(".")
        return Text(draft if "stubborn" in prompt else revised, True)


def settings(**changes: Any) -> Settings:
    how = {"critique": CRITIQUE, "revision": REVISION, "max_new_tokens": 20, "temperature": 1.0, "seed": 0}
    return Settings(principles=PRINCIPLES, **how | changes)


def asked(*prompts: str) -> list[tuple[str, Turns]]:
    return [(f"id{i}", [{"role": "user", "content": text}]) for i, text in enumerate(prompts)]


def test_each_principle_is_held_against_the_draft() -> None:
    prompts = asked("go", "please go", "silent", "stubborn", "odd", "long")
    drafted = draft_and_revise(prompts, Rule(), critic := Rule(), settings())
    said = {one.draft: [(j.kept, j.revision, j.outcome, j.revision_kept) for j in one.judged] for one in drafted[:5]}
    assert said["go."] == [(False, "go", "revised", True), (False, "please go.", "revised", True)]
    assert said["please go."] == [(False, "please go", "revised", True), (True, None, "kept", None)]
    assert [outcome for _, _, outcome, _ in said[""]] == ["empty", "empty"]
    assert [outcome for _, _, outcome, _ in said["stubborn."]] == ["unchanged", "unchanged"]
    assert said["odd."] == [(None, "odd", "revised", None), (None, "please odd.", "revised", None)]
    assert [one.outcome for one in drafted[5].judged] == ["no_room", "no_room"]
    assert critic.asked[0][:2] == ["go", "go."]
    assert PRINCIPLES[0] in critic.asked[0][2]


def test_what_was_cut_is_learnt_only_on_request() -> None:
    (one,) = draft_and_revise(asked("go"), Rule(cut=True), Rule(), settings())
    assert [judged.outcome for judged in one.judged] == ["cut", "cut"]
    (one,) = draft_and_revise(asked("go"), Rule(cut=True), Rule(), settings(keep_cut=True))
    assert [judged.outcome for judged in one.judged] == ["revised", "revised"]
    (one,) = draft_and_revise(asked("go"), Rule(cut=True), Rule(), settings(revises=False))
    assert [(judged.kept, judged.outcome) for judged in one.judged] == [(False, None), (False, None)]


def test_two_principles_that_ask_the_same_make_one_pair() -> None:
    same = ("End without a full stop.", "Never end with a full stop.")
    (one,) = draft_and_revise(asked("go"), Rule(), Rule(), Settings(**settings().__dict__ | {"principles": same}))
    assert [judged.outcome for judged in one.judged] == ["revised", "same_revision"]


def test_a_verdict_is_the_first_word() -> None:
    said = {"Yes, it does": True, "no.": False, ' "No"': False, "Yesterday": None, "": None, "The answer is no": None}
    assert {text: verdict(text) for text in said} == said


def test_principles_are_lines_or_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "principles.txt"
    file.write_text("# of synopses\nBe short.\n  Say please.  \n")
    assert read_principles(str(file)) == ("Be short.", "Say please.")
    file.write_text("Be short,\nbut not curt.\n\n\nSay please.\n")
    assert read_principles(str(file)) == ("Be short, but not curt.", "Say please.")
    for content, says in (("\n# nothing\n", "holds no principle"), ("A.\nA.\n", "says 'A.' twice")):
        file.write_text(content)
        with pytest.raises(RecipeError, match=says):
            read_principles(str(file))
    file.write_bytes(b"caf\xe9")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        read_principles(str(file))
    with pytest.raises(RecipeError, match="No such file"):
        read_principles(str(tmp_path / "absent.txt"))


class Bench:
    """Rows, a tiny model that writes something else for each, and the job that revises it."""

    def __init__(self, folder: Path, layout: str) -> None:
        self.folder, self.work, self.format = folder, Workspace(folder / "work"), FORMATS[layout]
        made = tiny_chat_lm(folder / "model")
        model: Any = AutoModelForCausalLM.from_pretrained(made)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(6.0)
        model.save_pretrained(made)
        rows = [{"text": row["text"], "answer": f"ask the {row['label']} team"} for row in tiny_rows(30)]
        write_jsonl(folder / "rows.jsonl", rows)
        self.model = find_model(ModelRef(path=str(made)))
        source = Files(path=str(folder / "rows.jsonl"))
        dataset: Any = {"source": source, "format": self.format}
        job = IngestJob.model_validate({"name": "rows", "source": source, "files": source.pin(), "limits": {}})
        self.raw: RawDataset = ingest(job, self.work)
        own = self.model.tokenizer
        asked = {"name": "rows", "raw": self.raw, "dataset": dataset, "model": self.model, "tokenizer": own}
        self.data: PreparedDataset = preprocess(PreprocessJob.model_validate({**asked, "trains": True}), self.work)
        self.start: Checkpoint = base(BaseJob(model=self.model, kind=self.data.kind, labels=(), seed=0), self.work)

    def job(self, **changes: Any) -> ReviseJob:
        made = {"name": "rows", "model": self.start, "critic": None, "data": self.data, "raw": self.raw}
        how = {"format": self.format, "principles": SHORT, "critique": CRITICISE, "revision": REVISE}
        more = {"max_new_tokens": 6, "temperature": 1.0, "keep_cut": True, "checkers": {}, "seed": 0}
        return ReviseJob.model_validate({**made, **how, **more, "compute": Compute(workers=0, threads=1), **changes})


@pytest.mark.parametrize("layout", ["texts", "chats"])
def test_pairs_are_what_the_model_wrote(tmp_path: Path, layout: str) -> None:
    bench = Bench(tmp_path, layout)
    made = revise(bench.job(temperature=0.0, checkers={2: {"kind": "regex", "pattern": "please"}}), bench.work)
    log = [json.loads(line) for line in (made.path / "revisions.jsonl").read_text().splitlines()]
    rows = made.splits["train"].rows + made.splits["validation"].rows
    prompts = bench.data.splits["train"].rows + bench.data.splits["validation"].rows
    assert made.ledger.rows_in == len(log) == 2 * prompts
    assert made.ledger.kept == rows == made.ledger.rows_in - sum(made.ledger.dropped.values())
    assert (made.kind, made.splits["test"].rows) == ("preferences", 0)
    by_id = {f"{line['row_id']}-{SHORT.index(line['principle'])}": line for line in log}
    table = pa.ipc.open_file(pa.memory_map(str(split_file(made.path, "train")))).read_all().to_pylist()
    assert len(table) == made.splits["train"].rows > 0
    for row in table:
        line = by_id[row["row_id"]]
        assert (line["outcome"], line["principle"], line["split"]) == ("revised", row["slice:principle"], "train")
        assert (line["revision"], line["draft"]) == (row["target"]["chosen"], row["target"]["rejected"])
    tokenizer: Any = AutoTokenizer.from_pretrained(bench.model.folder)
    _hold_against_stock(bench, tokenizer, log, layout)
    facts = made.principles
    assert [one.by for one in facts] == ["critic", "checker"]
    first = log[: len(log) : 2]
    assert facts[0].drafts.answers == len(first)
    assert facts[0].drafts.kept == sum(line["kept"] is True for line in first)
    assert facts[1].drafts.kept == sum("please" in line["draft"] for line in log[1::2])


def _hold_against_stock(bench: Bench, tokenizer: Any, log: list[dict[str, Any]], layout: str) -> None:
    """Hold a draft, its critique and its revision against stock transformers' greedy search after the same turns."""
    model: Any = AutoModelForCausalLM.from_pretrained(bench.model.folder).eval()
    values = {json.dumps(row): row for row in map(json.loads, (bench.folder / "rows.jsonl").read_text().splitlines())}
    drafts = {line["draft"] for line in log}
    line = next(line for line in log if line["revision"])

    def p(ids: list[int], word: list[int]) -> float:
        """The mean of cross-entropy over a word's tokens, as transformers has it, times their number."""
        both = torch.tensor([[*ids, *word]])
        labels = both.masked_fill(torch.arange(both.shape[1]) < len(ids), -100)
        return -model(both, labels=labels).loss.item() * len(word)

    def written(turns: list[dict[str, str]], words: Sequence[str] = ()) -> str:
        if layout == "chats":
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        else:
            first, *rest = [turn["content"] for turn in turns]
            text = "\n\n".join([f"{first} >{rest[0]}", *rest[1:]]) if rest else first
            ids = tokenizer(f"{text} >", add_special_tokens=False)["input_ids"]
            ids = [tokenizer.bos_token_id, *ids]
        begun = (
            max((tokenizer(word, add_special_tokens=False)["input_ids"] for word in words), key=partial(p, ids))
            if words
            else []
        )
        ids = torch.tensor([[*ids, *begun]])
        options: Any = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=tokenizer.eos_token_id, **options)
        return tokenizer.decode(whole[0, ids.shape[1] - len(begun) :], skip_special_tokens=True).strip()

    user = next(
        row["text"] for row in values.values() if written([{"role": "user", "content": row["text"]}]) == line["draft"]
    )
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": line["draft"]}]
    turns.append({"role": "user", "content": CRITICISE.replace("{principle}", line["principle"])})
    assert written(turns, revisions.WORDS) == line["critique"]
    turns.append({"role": "assistant", "content": line["critique"]})
    turns.append({"role": "user", "content": REVISE.replace("{principle}", line["principle"])})
    assert written(turns) == line["revision"]
    assert line["draft"] in drafts


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_makes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "PROMPTS_AT_ONCE", 8)
    bench = Bench(tmp_path, "texts")
    whole = revise(bench.job(), Workspace(tmp_path / "whole"))
    calls = list[int]()
    write = revisions.ModelWriter.write

    def killed(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return write(self, *args, **options)

    monkeypatch.setattr(revisions.ModelWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        revise(bench.job(), bench.work)
    (left,) = bench.work.root.glob("stages/revise/*.work")
    assert [one.name for one in left.glob("parts/*")] == ["part-000000.jsonl"]
    calls.clear()
    monkeypatch.setattr(revisions.ModelWriter, "write", write)
    again = revise(bench.job(), bench.work)
    assert again.content == whole.content
    assert (again.path / "revisions.jsonl").read_bytes() == (whole.path / "revisions.jsonl").read_bytes()
    assert revise(bench.job(seed=1), bench.work).content != whole.content


def test_what_a_model_upholds_is_counted_before_and_after(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "chats")
    revised = revise(bench.job(), bench.work)
    job = UpholdJob(
        phase="tune",
        before=bench.start,
        after=bench.start,
        critic=bench.start,
        called="the model itself",
        data=bench.data,
        raw=bench.raw,
        format=bench.format,
        drafted=revised.principles,
        critique=CRITICISE,
        max_new_tokens=6,
        temperature=1.0,
        checkers={2: {"kind": "length", "most": 12}},  # pyright: ignore[reportArgumentType]
        seed=0,
        compute=Compute(workers=0, threads=1),
    )
    held = uphold(job, bench.work)
    assert [one.principle for one in held.principles] == [*SHORT]
    assert all(one.before == one.after for one in held.principles)  # the same model draws the same
    assert [(one.gained, one.lost, one.p_value) for one in held.principles] == [(0, 0, 1.0)] * 2
    assert {one.before.answers for one in held.principles} == {bench.data.splits["test"].rows}
    drafts = [
        json.loads(line)["draft"] for line in (held.path / "before" / "part-000000.jsonl").read_text().splitlines()
    ]
    assert held.principles[1].after.kept == sum(len(draft) <= 12 for draft in drafts)


def test_a_critic_that_is_content_leaves_nothing_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "verdict", lambda critique: True)
    bench = Bench(tmp_path, "texts")
    with pytest.raises(DataError, match=r"no draft was revised into something else: \d+ kept; give another critic"):
        revise(bench.job(), bench.work)


def test_another_critic_is_asked_by_its_own_chat_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, asked = Bench(tmp_path, "chats"), dict[Path, list[tuple[Turns, list[int]]]]()
    own = TINY_TEMPLATE.replace(" : ", " says ")
    folder = tiny_chat_lm(tmp_path / "critic", own, seed=5)
    critic = find_model(ModelRef(path=str(folder)))
    prompt, begin = revisions.ModelWriter.prompt, revisions.ModelWriter.__init__

    def began(self: Any, model: Any, *rest: Any) -> None:
        begin(self, model, *rest)
        self.folder = model.folder

    def kept(self: Any, turns: Turns) -> list[int]:
        asked.setdefault(self.folder, []).append((turns, ids := prompt(self, turns)))
        return ids

    monkeypatch.setattr(revisions.ModelWriter, "__init__", began)
    monkeypatch.setattr(revisions.ModelWriter, "prompt", kept)
    revise(bench.job(critic=critic), bench.work)
    assert {*asked} == {folder, bench.start.folder}
    for at, heard in asked.items():
        stock: Any = AutoTokenizer.from_pretrained(at)
        for turns, ids in heard[:3]:
            assert ids == stock.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    first, ids = asked[folder][0]
    drafter: Any = AutoTokenizer.from_pretrained(bench.start.folder)
    assert ids != drafter.apply_chat_template(first, add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.slow
def test_workers_say_together_what_one_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "texts")
    processor = load_processor(bench.model.folder)
    layout = pairs_of_answers(bench.format, processor)
    prompts = prompts_of(bench.raw, bench.data, bench.format, ("train", "test"))
    assert [one.split for one in prompts].count("test") == bench.data.splits["test"].rows
    write_prompts(tmp_path / "prompts.arrow", prompts[:12], layout, processor)
    fields = bench.job(critic=bench.start).model_dump(
        include={"principles", "critique", "revision", "max_new_tokens", "temperature", "keep_cut", "seed", "name"}
    )
    plan = RevisePlan(
        **fields,
        model=bench.start,
        critic=bench.start,
        layout=layout,
        prompts=str(tmp_path / "prompts.arrow"),
        count=12,
        revises=True,
        folder=str(tmp_path),
        fingerprint="f",
        compute=Compute(workers=0, threads=1),
    )
    sent = _Spec.model_validate_json(_spec(plan)).plan
    assert sent == plan
    models = sent.models(torch.device("cpu"))
    whole: Any = models.answer(0)
    parts: list[Any] = [models.answer(0, share=Share(i, 2)) for i in range(2)]
    assert sent.whole(0, [sent.to_bytes(part) for part in parts]) == whole
    assert [one.row_id for one in whole] == [one.row_id for one in prompts[:12]]
