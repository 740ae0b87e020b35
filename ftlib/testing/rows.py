"""Rows that can be learnt: each label has words, or a colour, of its own among what all labels share."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ftlib.data.iob2 import entities

LABELS = ("billing", "bug", "sales")

TOPICS = (
    "invoice payment refund charge card receipt tax discount price subscription balance bank",
    "crash error freeze screen button login password stack trace timeout reload blank",
    "quote demo licence seats trial upgrade partner contract offer meeting budget team",
    "parcel courier address delay tracking package warehouse customs driver doorstep label pickup",
    "battery cable charger fan keyboard hinge speaker microphone port adapter heat noise",
    "visa passport flight hotel luggage boarding gate seat ticket airport layover booking",
)

SHARED = (
    "the a my our this that is was has had will can please today yesterday again still after before when with without "
    "for from about into over and or but not very some more again customer account page order time day week month "
    "question answer help need want know see get make find show tell ask wait call write open close start stop"
)


def tiny_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, words: int = 12, hints: int = 3
) -> list[dict[str, str | int]]:
    """Make `count` distinct rows, labels in turn, with columns text, label, group (of 5 rows) and day (ascending).

    `hints` words of `words` belong to the label; the fewer, the harder. At most six labels.
    """
    if not 2 <= len(labels) <= len(TOPICS):
        raise ValueError(f"tiny_rows has words for 2 to {len(TOPICS)} labels, got {len(labels)}")
    draw = random.Random(seed)
    rows: list[dict[str, str | int]] = []
    for i in range(count):
        which = i % len(labels)
        chosen = draw.choices(TOPICS[which].split(), k=hints) + draw.choices(SHARED.split(), k=words - hints)
        draw.shuffle(chosen)
        text = f"{' '.join(chosen)} {seed}-{i}"  # the number keeps rows distinct: nothing is lost to de-duplication
        rows.append({"text": text, "label": labels[which], "group": f"g{i // 5}", "day": i})
    return rows


def tiny_tagged_rows(count: int, *, seed: int = 0, words: int = 10) -> list[dict[str, list[str]]]:
    """Make `count` distinct rows with columns words and tags (IOB2): runs of one to three words are PAY or BUG."""
    draw = random.Random(seed)
    rows: list[dict[str, list[str]]] = []
    for i in range(count):
        tagged = [(word, "O") for word in draw.choices(SHARED.split(), k=words)]
        for type, topic in zip(("PAY", "BUG"), TOPICS, strict=False):
            run = draw.choices(topic.split(), k=draw.randint(1, 3))
            position = draw.randint(0, len(tagged))
            if position < len(tagged) and tagged[position][1].startswith("I-"):
                continue  # it would cut another entity in two
            tagged[position:position] = [(word, f"{'I' if j else 'B'}-{type}") for j, word in enumerate(run)]
        tagged.append((f"{seed}-{i}", "O"))  # keeps rows distinct: nothing is lost to de-duplication
        rows.append({"words": [word for word, _ in tagged], "tags": [tag for _, tag in tagged]})
    return rows


def tiny_questions(count: int, *, seed: int = 0, words: int = 10, unanswerable: int = 0) -> list[dict[str, object]]:
    """Make `count` rows with columns question, context and answers, as SQuAD has them, of `tiny_tagged_rows`.

    Every `unanswerable`-th asks for what no context has; 0 is none.
    """
    asked = {"PAY": "which payment ?", "BUG": "which crash ?"}
    rows: list[dict[str, object]] = []
    for i, row in enumerate(tiny_tagged_rows(count, seed=seed, words=words)):
        entity = entities(row["tags"])[i % 2 - 1]
        text = " ".join(row["words"][entity.first : entity.end])
        start = sum(len(word) + 1 for word in row["words"][: entity.first])
        answers, question = {"text": [text], "answer_start": [start]}, asked[entity.type]
        if unanswerable and i % unanswerable == unanswerable - 1:
            answers, question = {"text": [], "answer_start": []}, "which parcel ?"
        rows.append({"question": question, "context": " ".join(row["words"]), "answers": answers})
    return rows


def tiny_multi_label_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, words: int = 12, hints: int = 2
) -> list[dict[str, str | list[str]]]:
    """Make `count` distinct rows with columns text and labels: every subset of them in turn, none and all too.

    Each label has `hints` words of its own in the text. At most six labels.
    """
    draw = random.Random(seed)
    rows: list[dict[str, str | list[str]]] = []
    for i in range(count):
        which = [j for j in range(len(labels)) if i >> j & 1]
        chosen = [word for j in which for word in draw.choices(TOPICS[j].split(), k=hints)]
        chosen += draw.choices(SHARED.split(), k=words - len(chosen))
        draw.shuffle(chosen)
        rows.append({"text": f"{' '.join(chosen)} {seed}-{i}", "labels": [labels[j] for j in which]})
    return rows


def tiny_scored_rows(count: int, *, seed: int = 0, words: int = 12) -> list[dict[str, str | float]]:
    """Make `count` distinct rows with columns text and score: half the number of words about one topic, 0 to 3."""
    draw = random.Random(seed)
    rows: list[dict[str, str | float]] = []
    for i in range(count):
        told = i % 7
        chosen = draw.choices(TOPICS[0].split(), k=told) + draw.choices(SHARED.split(), k=words - told)
        draw.shuffle(chosen)
        rows.append({"text": f"{' '.join(chosen)} {seed}-{i}", "score": told / 2})
    return rows


def tiny_chats(count: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Make `count` rows with a column messages: one to three questions, each answered; some with a system turn."""
    draw, asked = random.Random(seed), tiny_rows(3 * count, seed=seed, words=6, hints=2)
    rows: list[dict[str, object]] = []
    for i in range(count):
        messages = [{"role": "system", "content": "please help"}] if i % 4 == 3 else []
        for row in asked[3 * i : 3 * i + 1 + draw.randrange(3)]:
            messages.append({"role": "user", "content": str(row["text"])})
            messages.append({"role": "assistant", "content": f"ask the {row['label']} team"})
        rows.append({"messages": messages})
    return rows


def tiny_prompts(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` rows with columns prompt and completion; which completion follows from the prompt's words."""
    return [
        {"prompt": str(row["text"]), "completion": f"please ask the {row['label']} team about your order"}
        for row in tiny_rows(count, seed=seed)
    ]


def tiny_pairs(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` rows with columns anchor and positive, which have the words of a topic in common."""
    return [
        {"anchor": str(row["text"]), "positive": f"{' '.join(str(row['text']).split()[::2])} {row['label']}"}
        for row in tiny_rows(count, seed=seed)
    ]


def tiny_comparisons(count: int, *, seed: int = 0) -> list[dict[str, str | float]]:
    """Make `count` rows with columns chosen, rejected and margin; the chosen text has more words about one topic."""
    draw = random.Random(seed)
    rows: list[dict[str, str | float]] = []
    for i in range(count):
        less, more = sorted(draw.sample(range(7), 2))
        texts = [
            draw.choices(TOPICS[0].split(), k=told) + draw.choices(SHARED.split(), k=8 - told) for told in (more, less)
        ]
        chosen, rejected = (f"{' '.join(draw.sample(words, 8))} {seed}-{i}" for words in texts)
        rows.append({"chosen": chosen, "rejected": rejected, "margin": (more - less) / 2})
    return rows


def tiny_sources(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` rows with columns source and target; which target follows from the source's words."""
    return [{"source": row["prompt"], "target": row["completion"]} for row in tiny_prompts(count, seed=seed)]


def tiny_preferences(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` rows with columns prompt, chosen and rejected; the answer that names the prompt's team is chosen."""
    rows: list[dict[str, str]] = []
    for i, row in enumerate(tiny_rows(count, seed=seed)):
        other = LABELS[(LABELS.index(str(row["label"])) + 1 + i // len(LABELS) % 2) % len(LABELS)]
        chosen, rejected = f"please ask the {row['label']} team", f"ask the {other} team about it"
        rows.append({"prompt": str(row["text"]), "chosen": chosen, "rejected": rejected})
    return rows


def tiny_thumbs(count: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Make `count` rows with columns prompt, answer and label: of `tiny_preferences`, every other one wanted."""
    return [
        {"prompt": row["prompt"], "answer": row["rejected" if i % 2 else "chosen"], "label": not i % 2}
        for i, row in enumerate(tiny_preferences(count, seed=seed))
    ]


def tiny_image_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, pixels: int = 24, noise: float = 0.15
) -> list[dict[str, str]]:
    """Make `count` distinct rows with columns image (a PNG as a data URI), label and theme: each label has its colour.

    A rectangle of that colour lies on a ground of noise; `noise` is its share of the whole range, the more, the harder.
    At most six labels; the theme, light or dark, is the ground's.
    """
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    for i in range(count):
        theme = ("light", "dark")[int(draw.integers(2))]
        image = np.full((pixels, pixels, 3), 0.8 if theme == "light" else 0.2)
        top, left = draw.integers(0, pixels // 2, 2)
        height, width = draw.integers(pixels // 4, pixels // 2, 2)
        image[top : top + height, left : left + width] = _COLOURS[i % len(labels)]
        image += draw.normal(0, noise, image.shape)
        stream = io.BytesIO()
        Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(stream, "PNG")
        text = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
        rows.append({"image": text, "label": labels[i % len(labels)], "theme": theme})
    return rows


_COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as one JSON object a line and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path
