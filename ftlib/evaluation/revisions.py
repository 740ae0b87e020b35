"""Drafts, critiques and revisions by written principles (Bai et al. 2022): frozen models asked about prompts, in parts.

A prompt is a list of turns. A writer puts them together as rows of its format are: by the chat template, or as texts
one below the other. Everything is a function of the prompt, its row's id and the seed, so it depends on neither the
batch nor the workers, to the rounding of sums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from typing_extensions import override

from ftlib.config import Config
from ftlib.data.conversations import Message
from ftlib.data.formats import Format
from ftlib.data.formats.pairs_of_answers import laid_out_for
from ftlib.data.processor import Processor
from ftlib.data.rows import Example
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of
from ftlib.evaluation.inference import InferencePlan, Models
from ftlib.kinds.loading import load, load_processor, load_tokenizer
from ftlib.kinds.sampling import sample
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.limits import limits_of
from ftlib.storage.node_cache import local_path
from ftlib.training.principles import PRINCIPLE

WORDS = ("Yes", "No")
"""What a critique begins with."""
PROMPTS_AT_ONCE = 32
"""Prompts of a part, which is the least that is lost when a run is killed."""

Turns: TypeAlias = "list[Message]"
Outcome = Literal["revised", "kept", "unchanged", "same_revision", "empty", "cut", "no_room"]
"""What became of a draft under a principle: only what was `revised` makes a row."""


class Text(NamedTuple):
    """What was written."""

    text: str
    ended: bool


@runtime_checkable
class Writer(Protocol):
    """Whatever writes: a model, or in tests a rule."""

    def write(
        self,
        asked: Sequence[Turns],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        words: Sequence[str] = (),
    ) -> list[Text | None]:
        """Return what follows each list of turns; None where the model has no places left for it.

        With `words` it begins with the likeliest of them, whatever else might be likelier: a small model that is asked
        for yes or no seldom says either of itself.
        """
        ...


class Judged(Config):
    """A draft under one principle."""

    principle: int
    """Its place, from 0."""
    critique: str
    """What the critic said of the draft."""
    kept: bool | None
    """Whether it says that the draft keeps the principle; None where it says neither."""
    revision: str | None = None
    revision_kept: bool | None = None
    outcome: Outcome | None = None
    """None where nothing was to be revised."""


class Drafted(Config):
    """A prompt's draft, and what each principle made of it."""

    row_id: str
    draft: str
    ended: bool
    judged: tuple[Judged, ...]


@dataclass(frozen=True)
class Settings:
    """What is asked, and how."""

    principles: tuple[str, ...]
    critique: str
    revision: str
    max_new_tokens: int
    temperature: float
    seed: int
    revises: bool = True
    """Whether drafts are revised, or only criticised, to measure."""
    keep_cut: bool = False


def verdict(critique: str) -> bool | None:
    """Return whether a critique begins with yes or no; None where it begins with neither."""
    word = re.match(r"\W*(yes|no)\b", critique, re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"


def draft_and_revise(
    prompts: Sequence[tuple[str, Turns]], drafter: Writer, critic: Writer, how: Settings
) -> list[Drafted]:
    """Return each prompt's (row id, turns) draft, held against every principle, and revised where it keeps it not.

    A critique is of the draft, so that principles do not depend on each other. A draft whose critique says neither yes
    nor no is revised, too.
    """
    turns = [asked for _, asked in prompts]
    seeds = [_seed(how.seed, row_id) for row_id, _ in prompts]
    drafts = drafter.write(turns, seeds=seeds, max_new_tokens=how.max_new_tokens, temperature=how.temperature)
    usable = [i for i, draft in enumerate(drafts) if draft and draft.text and (draft.ended or how.keep_cut)]
    shown = {i: [*turns[i], _said(drafts[i])] for i in (usable if how.revises else range(len(turns))) if drafts[i]}
    judged: list[list[Judged]] = [[] for _ in prompts]
    for number, principle in enumerate(how.principles):
        for i, one in _under(number, principle, shown, drafts, drafter, critic, how).items():
            before = {other.revision for other in judged[i]}
            copy = one.outcome == "revised" and one.revision in before
            judged[i].append(one.model_copy(update={"outcome": "same_revision"}) if copy else one)
        for i in range(len(prompts)):
            if i not in shown:
                judged[i].append(Judged(principle=number, critique="", kept=None, outcome=_unusable(drafts[i])))
    return [
        Drafted(row_id=row_id, draft=draft.text if draft else "", ended=bool(draft and draft.ended), judged=tuple(one))
        for (row_id, _), draft, one in zip(prompts, drafts, judged, strict=True)
    ]


def _under(
    number: int,
    principle: str,
    shown: dict[int, Turns],
    drafts: Sequence[Text | None],
    drafter: Writer,
    critic: Writer,
    how: Settings,
) -> dict[int, Judged]:
    """Return what one principle makes of the drafts that are `shown` with their prompts, by their place."""
    asked = how.critique.replace(PRINCIPLE, principle)
    most = how.max_new_tokens if how.revises else 0
    critiques = _asked(critic, {i: [*turns, _user(asked)] for i, turns in shown.items()}, most, WORDS)
    made = {
        i: Judged(
            principle=number,
            critique=said.text if said else "",
            kept=verdict(said.text) if said else None,
            outcome="no_room" if said is None else None,
        )
        for i, said in critiques.items()
    }
    if not how.revises:
        return made
    faulty = {
        i: [*shown[i], _user(asked), _said(critiques[i]), _user(how.revision.replace(PRINCIPLE, principle))]
        for i, one in made.items()
        if one.outcome is None and not one.kept
    }
    revisions = _asked(drafter, faulty, how.max_new_tokens)
    again = {i: [*shown[i][:-1], _said(new), _user(asked)] for i, new in revisions.items() if new and new.text}
    verdicts = _asked(critic, again, 0, WORDS)
    for i, one in made.items():
        new, said, draft = revisions.get(i), verdicts.get(i), drafts[i]
        told = {"revision": new.text if new else None, "revision_kept": verdict(said.text) if said else None}
        outcome = one.outcome or ("kept" if one.kept else _outcome(draft, new, keep_cut=how.keep_cut))
        made[i] = one.model_copy(update={**told, "outcome": outcome})
    return made


def _outcome(draft: Text | None, revision: Text | None, *, keep_cut: bool) -> Outcome:
    if revision is None:
        return "no_room"
    if not revision.text:
        return "empty"
    if draft is not None and revision.text == draft.text:
        return "unchanged"
    return "revised" if revision.ended or keep_cut else "cut"


def _unusable(draft: Text | None) -> Outcome:
    return "no_room" if draft is None else "cut" if draft.text else "empty"


def _asked(writer: Writer, asked: dict[int, Turns], most: int, words: Sequence[str] = ()) -> dict[int, Text | None]:
    if not asked:
        return {}
    said = writer.write([*asked.values()], seeds=[0] * len(asked), max_new_tokens=most, temperature=0.0, words=words)
    return dict(zip(asked, said, strict=True))


def _said(text: Text | None) -> Message:
    return {"role": "assistant", "content": text.text if text else ""}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _seed(seed: int, row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{row_id}".encode()).digest()[:8])


class ModelWriter:
    """A causal model that writes after turns as rows of a format are laid out."""

    def __init__(self, model: FoundModel | Checkpoint, layout: Format, device: torch.device) -> None:
        """Raises ModelError for weights that do not load, or chats for a model without a template."""
        self._tokenizer: Any = load_tokenizer(model.folder)
        self._model = load(model, layout.asked_as).to(device).eval()
        self._layout, self._device = layout, device
        self._positions = limits_of(model.folder).positions
        template = layout.chat_template(Processor.of(self._tokenizer))
        end = None if template is None else template.end
        ends: set[int | None] = {self._tokenizer.eos_token_id, end}
        self._ends = frozenset(one for one in ends if one is not None)

    def write(
        self,
        asked: Sequence[Turns],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        words: Sequence[str] = (),
    ) -> list[Text | None]:
        """Write after each; see `Writer`."""
        prompts = [self.prompt(turns) for turns in asked]
        first = [self._tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        more, room = max_new_tokens + max(map(len, first), default=0), self._positions
        fits = [i for i, ids in enumerate(prompts) if ids and (room is None or len(ids) + more <= room)]
        begun = {i: self._likeliest(prompts[i], first) for i in fits}
        written: list[Text | None] = [None] * len(asked)
        samples = sample(
            self._model,
            [torch.tensor(prompts[i] + begun[i], device=self._device) for i in fits],
            seeds=[seeds[i] for i in fits],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            ends=self._ends,
        )
        for i, one in zip(fits, samples, strict=True):
            text: str = self._tokenizer.decode(
                [*begun[i], *one.answer], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            written[i] = Text(text.strip(), one.ended)
        return written

    @torch.inference_mode()
    def _likeliest(self, prompt: list[int], words: Sequence[list[int]]) -> list[int]:
        """Return the tokens of the word that is likeliest to follow; none where there is none to choose from."""

        def log_prob(word: list[int]) -> float:
            ids = torch.tensor([prompt + word], device=self._device)
            said: Any = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            logs = said.logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            return float(logs.gather(1, ids[0, len(prompt) :, None]).sum())

        return max(words, key=log_prob, default=[])

    def prompt(self, turns: Turns) -> list[int]:
        """Return the tokens after which an answer to turns is written; none where the template refuses them."""
        return prompt_ids(turns, self._layout, Processor.of(self._tokenizer))


def prompt_ids(turns: Turns, layout: Format, processor: Processor) -> list[int]:
    """Return the tokens after which an answer to turns is written; none where a chat template refuses them."""
    if (prompting := layout.prompting) is None:
        example = Example("", parts=tuple(json.dumps(part, ensure_ascii=False) for part in (None, *turns)))
    else:
        first, *rest = (str(turn["content"]) for turn in turns)
        answered = f"{first}{prompting.separator}{rest[0]}" if rest else first
        example = Example("\n\n".join([answered, *rest[1:]]))
    (encoded,) = layout.encode([example], processor)
    return encoded.pieces[0].ids if encoded.pieces else []


class RevisePlan(InferencePlan[list[Drafted]]):
    """Which models draft, criticise and revise, and where the parts go."""

    kind: Literal["revised"] = "revised"
    model: FoundModel | Checkpoint
    critic: FoundModel | Checkpoint | None
    """None: the model itself."""
    layout: Format
    prompts: str
    """The file of prompts, rows of prompts with the slice `turns` (JSON)."""
    count: int
    """How many prompts it has."""
    principles: tuple[str, ...]
    critique: str
    revision: str
    max_new_tokens: int
    temperature: float
    keep_cut: bool
    revises: bool
    seed: int
    folder: str
    """Where the parts are written; one that is there is not made again."""
    fingerprint: str
    """The job's."""

    @property
    @override
    def what(self) -> str:
        return f"{'revise' if self.revises else 'criticise'} {self.name}"

    @property
    @override
    def job_file(self) -> Path:
        return Path(self.folder, f"revise-{self.fingerprint}.json")

    @property
    def parts(self) -> list[Path]:
        """Return the files of all parts, in order."""
        return [Path(self.folder, f"part-{i:06d}.jsonl") for i in range(-(-self.count // PROMPTS_AT_ONCE))]

    @property
    @override
    def made(self) -> list[Path]:
        return self.parts

    @override
    def models(self, device: torch.device) -> Models[list[Drafted]]:
        return _Revising(self, device)

    @override
    def rows(self, item: int) -> PreparedSplit:
        table = pa.ipc.open_file(pa.memory_map(str(local_path(self.prompts)))).read_all()
        return PreparedSplit(table.slice(item * PROMPTS_AT_ONCE, PROMPTS_AT_ONCE), self.layout.asked_as, None)

    @override
    def done_before(self, item: int) -> tuple[int, int]:
        return item * PROMPTS_AT_ONCE, self.count

    @override
    def make(self, answer: Callable[[int], list[Drafted]]) -> None:
        """Write every part that is not there, under its name once it is whole."""
        for item, target in enumerate(self.parts):
            if not target.exists():
                part = target.with_suffix(".part")
                part.write_bytes(self.to_bytes(answer(item)))
                part.replace(target)

    def drafted(self) -> list[Drafted]:
        """Return what all parts say, once they are made."""
        return [one for part in self.parts for one in _from_bytes(part.read_bytes())]

    @override
    def to_bytes(self, answer: list[Drafted]) -> bytes:
        return b"".join(one.model_dump_json().encode() + b"\n" for one in answer)

    @override
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> list[Drafted]:
        drafted = [one for part in parts for one in _from_bytes(part)]
        return [drafted[i] for i in order]


def _from_bytes(lines: bytes) -> list[Drafted]:
    return [Drafted.model_validate_json(line) for line in lines.splitlines()]


class _Revising(Models[list[Drafted]]):
    """The plan's models in memory; one that criticises itself is there once."""

    def __init__(self, plan: RevisePlan, device: torch.device) -> None:
        self._plan, self._drafter = plan, ModelWriter(plan.model, plan.layout, device)
        if plan.critic is None:
            self._critic = self._drafter
        else:
            layout = laid_out_for(plan.layout, load_processor(plan.critic.folder))
            self._critic = ModelWriter(plan.critic, layout, device)

    @override
    def answer(
        self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING
    ) -> list[Drafted]:
        """Return, in the order of a share's rows, each prompt's draft with its verdicts and revisions."""
        plan, split = self._plan, self._plan.rows(item)
        ids, turns = split.row_ids.to_pylist(), split.slices["turns"].to_pylist()
        how = Settings(
            principles=plan.principles,
            critique=plan.critique,
            revision=plan.revision,
            max_new_tokens=plan.max_new_tokens,
            temperature=plan.temperature,
            seed=plan.seed,
            revises=plan.revises,
            keep_cut=plan.keep_cut,
        )
        drafted: dict[int, Drafted] = {}
        for rows in batches_of(split, share):
            asked = [(ids[row], json.loads(turns[row])) for row in rows]
            drafted |= dict(zip(rows.tolist(), draft_and_revise(asked, self._drafter, self._critic, how), strict=True))
            on_rows(len(drafted))
        return [drafted[row] for row in sorted(drafted)]
