"""The train stage in process: against plain torch, stock transformers, peft and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError, TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_causal_lm, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import global_batches, token_batches
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.optimizers.sgd import SGD
from ftlib.training.phase import EarlyStopping, Phase
from ftlib.training.solved.linear_probe_fit import best_l2
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

FAST = AdamW(learning_rate=3e-3, epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(110)
    return tiny_prepared(
        tmp_path_factory.mktemp("data"), {"train": rows[:75], "validation": rows[75:100], "test": rows[100:]}
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("start")
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(folder))


def phase(tuning: object, optimizer: AdamW | SGD = FAST, **fields: object) -> Phase:
    return Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": Classification(),
            "tuning": tuning,
            "optimizer": optimizer,
            **fields,
        }
    )


def run(start: Checkpoint, data: PreparedDataset, phase: Phase, root: Path, **compute: object) -> Checkpoint:
    job = TrainJob(
        start=start,
        data=data,
        phase=phase,
        precision="fp32",
        seed=7,
        compute=Compute.model_validate({"workers": 0, "threads": 1, **compute}),
    )
    return train(job, Workspace(root))


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_model(checkpoint.path / "model", "labeled").state_dict()


def test_full_training_equals_a_plain_torch_loop(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    """A second implementation: one unpadded row at a time, unfused AdamW, transformers' own loss and schedule."""
    from transformers import get_linear_schedule_with_warmup

    settings = AdamW(learning_rate=1e-3, epochs=2, batch_size=8, weight_decay=0.1, warmup=0.2, clip_norm=0.5)
    ours = weights(run(start, data, phase(Full(), settings, dropout=0.0), tmp_path))

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(start.path / "model").eval()
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3, foreach=False
    )
    split = open_split(data.path / "train.arrow", LABELS)
    order = [rows for epoch in (0, 1) for rows in global_batches(split.lengths, 8, 7, epoch)]
    # transformers' warm-up starts at 0, ours one step later: shift it
    schedule = get_linear_schedule_with_warmup(optimizer, 4, len(order))
    factors = [(i + 1) / 4 if i < 4 else schedule.lr_lambdas[0](i) for i in range(len(order))]
    assert isinstance(split.targets, LabelTargets)
    for rows, factor in zip(order, factors, strict=True):
        loss = torch.zeros(())
        for row in rows:
            ids = torch.tensor(split.tokens(row)).long()[None]
            loss = loss + model(input_ids=ids, labels=torch.tensor([split.targets.positions[row]])).loss
        (loss / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * factor
        optimizer.step()
        optimizer.zero_grad()
    for name, theirs in model.state_dict().items():
        torch.testing.assert_close(ours[name], theirs, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("micro", [1, 3, 16])
def test_the_split_of_a_batch_does_not_change_the_loss(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, micro: int
) -> None:
    whole = run(start, data, phase(Full(), dropout=0.0), tmp_path / "whole")
    split = run(start, data, phase(Full(), dropout=0.0), tmp_path / "split", micro_batch_size=micro)
    assert whole.fingerprint == split.fingerprint
    expected = [r["loss"] for r in curves.read(whole.path / curves.FILE) if "loss" in r]
    actual = [r["loss"] for r in curves.read(split.path / curves.FILE) if "loss" in r]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_language_model_loss_counts_tokens_not_rows(data: PreparedDataset, tmp_path: Path) -> None:
    texts = tiny_prepared(
        tmp_path / "data", {"train": tiny_rows(40), "validation": tiny_rows(9, seed=1)}, kind="tokens"
    )
    model = find_model(ModelRef(path=str(tiny_causal_lm(tmp_path / "tiny"))))
    first = base(BaseJob(model=model, kind="tokens", labels=(), seed=1), Workspace(tmp_path))
    settings = AdamW(learning_rate=1e-3, epochs=1, batch_size=8)
    job_phase = Phase(name="tune", dataset="d", objective=CausalLM(), tuning=Full(), optimizer=settings)
    losses = {}
    for micro in (None, 3):
        done = run(first, texts, job_phase, tmp_path / str(micro), micro_batch_size=micro)
        losses[micro] = [r["loss"] for r in curves.read(done.path / curves.FILE) if "loss" in r]
    np.testing.assert_allclose(losses[3], losses[None], rtol=1e-4)

    stock = load_model(first.path / "model", "tokens")
    split = open_split(texts.path / "train.arrow", ())
    rows = global_batches(split.lengths, 8, 7, 0)[0]
    total = tokens = 0.0
    for row in rows:
        ids = torch.tensor(split.tokens(row)).long()[None]
        with torch.no_grad():
            total += float(stock(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert losses[None][0] == pytest.approx(total / tokens, rel=1e-5)


def test_batches_of_tokens_are_split_packed_and_resumed_like_others(tmp_path: Path) -> None:
    rows = tiny_rows(60)
    for i, row in enumerate(rows):
        row["text"] = " ".join(str(row["text"]).split()[: 2 + i % 9])  # of lengths that tell
    texts = tiny_prepared(tmp_path / "data", {"train": rows[:50], "validation": rows[50:]}, kind="tokens")
    model = find_model(ModelRef(path=str(tiny_causal_lm(tmp_path / "tiny"))))
    first = base(BaseJob(model=model, kind="tokens", labels=(), seed=1), Workspace(tmp_path))
    settings = AdamW(learning_rate=1e-3, epochs=2, batch_tokens=64)
    fields = {"name": "tune", "dataset": "d", "objective": CausalLM(), "tuning": Full(), "optimizer": settings}
    job_phase = Phase.model_validate({**fields, "dropout": 0.0})
    split = open_split(texts.path / "train.arrow", ())
    order = [batch for epoch in (0, 1) for batch in token_batches(split.sizes, 64, 7, epoch)]
    assert len({len(batch) for batch in order}) > 2
    losses = {}
    for way in ({}, {"micro_batch_size": 2}, {"pack_tokens": 40}):
        done = run(first, texts, job_phase, tmp_path / str(len(losses)), **way)
        losses[len(losses)] = [r["loss"] for r in curves.read(done.path / curves.FILE) if "loss" in r]
        assert done.facts["steps"] == len(order)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)
    stock, total, tokens = load_model(first.path / "model", "tokens"), 0.0, 0
    for row in order[0]:
        ids = torch.tensor(split.tokens(row)).long()[None]
        with torch.no_grad():
            total += float(stock(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert losses[0][0] == pytest.approx(total / tokens, rel=1e-5)
    with stopped_at(5):
        run(first, texts, job_phase, tmp_path / "stopped")
    resumed = run(first, texts, job_phase, tmp_path / "stopped")
    assert resumed.facts["resumed_from_step"] == 5
    again = [r["loss"] for r in curves.read(resumed.path / curves.FILE) if "loss" in r]
    assert again == losses[0]


def test_frozen_layers_stay_bit_identical_and_the_rest_moves(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    before = weights(start)
    after = weights(run(start, data, phase(FrozenLayers(layers=1, also=("pooler",))), tmp_path))
    frozen = {n for n in before if ".embeddings." in n or ".layer.0." in n or "pooler" in n}
    assert frozen
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (name in frozen), name


@pytest.mark.parametrize(("layers", "groups"), [(4, 1), (4, 2), (4, 4), (6, 3)])
def test_layers_that_share_their_weights_are_frozen_together_or_not_at_all(layers: int, groups: int) -> None:
    """ALBERT's parameters against which of them a pass really goes through, layer by layer."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        vocab_size=20, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=16,
        num_hidden_layers=layers, num_hidden_groups=groups,
    )  # fmt: skip
    model = AlbertForSequenceClassification(config)
    passed: list[int] = []
    for i, group in enumerate(model.albert.encoder.albert_layer_groups):
        group.register_forward_hook(lambda *_, i=i: passed.append(i))
    model(input_ids=torch.ones((1, 3), dtype=torch.long))
    assert len(passed) == layers
    for wanted in range(layers + 1):
        tuning = FrozenLayers(layers=wanted)
        if {*passed[:wanted]} & {*passed[wanted:]}:
            with pytest.raises(RecipeError, match=f"one set of weights, .* got {wanted}; allowed are 0, .*{layers}"):
                tuning.prepare(model, "labeled", ["classifier"])
            continue
        tuning.prepare(model, "labeled", ["classifier"])
        for name, parameter in model.named_parameters():
            group = name.partition("albert_layer_groups.")[2].partition(".")[0]
            frozen = int(group) in passed[:wanted] if group else "embed" in name
            assert parameter.requires_grad != frozen, name
    with pytest.raises(RecipeError, match=f"has {layers} layers, got {layers + 1}"):
        FrozenLayers(layers=layers + 1).prepare(model, "labeled", ["classifier"])


def test_frozen_layers_of_a_model_whose_layers_have_no_numbers() -> None:
    from transformers import XLMConfig, XLMForSequenceClassification

    model = XLMForSequenceClassification(XLMConfig(vocab_size=20, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(RecipeError, match="no parameter of XLMForSequenceClassification says which layer it is in"):
        FrozenLayers(layers=1).prepare(model, "labeled", ["sequence_summary"])


def test_frozen_layers_refuses_a_pattern_that_matches_nothing(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'ploer' matches no parameter"):
        run(start, data, phase(FrozenLayers(layers=0, also=("ploer",))), tmp_path)
    with pytest.raises(RecipeError, match="has 2 layers, got 3"):
        run(start, data, phase(FrozenLayers(layers=3)), tmp_path)


def test_a_probe_beside_a_cluster_of_gpus_is_solved_here_without_one(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = {"workers": 2, "use_gpu": True, "ray_address": "http://head:8265"}
    probed, here = (
        run(start, data, phase(LinearProbe(l2=0.5)), tmp_path / str(i), **c) for i, c in ((0, there), (1, {}))
    )
    assert probed.weights == here.weights


def test_linear_probe_is_scikit_learns_logistic_regression(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    probed = run(start, data, phase(LinearProbe(l2=0.5)), tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(start.path / "model").eval()
    split = open_split(data.path / "train.arrow", LABELS)
    with torch.no_grad():
        features = np.concatenate(
            [
                stock.bert(input_ids=torch.tensor(split.tokens(i)).long()[None]).pooler_output.numpy()
                for i in range(len(split))
            ]
        )
    reference = LogisticRegression(C=2.0, max_iter=5000, tol=1e-8).fit(features, split.targets.positions)
    head = AutoModelForSequenceClassification.from_pretrained(probed.path / "model").classifier
    ours = torch.softmax(head(torch.from_numpy(features)), -1).detach().numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(features), atol=2e-3)
    body = {n: t for n, t in weights(start).items() if not n.startswith("classifier")}
    assert all(torch.equal(t, weights(probed)[n]) for n, t in body.items())
    assert not probed.fresh_head
    assert start.fresh_head


@pytest.mark.parametrize(("count", "noise"), [(2, 1.2), (4, 1.6)])
def test_l2_is_chosen_as_scikit_learn_chooses_it_on_the_validation_rows(count: int, noise: float) -> None:
    random = np.random.default_rng(count)
    centres = random.normal(size=(count, 12))

    def rows(number: int) -> tuple[np.ndarray, np.ndarray]:
        gold = random.integers(0, count, number)
        return (centres[gold] + noise * random.normal(size=(number, 12))).astype(np.float32), gold

    train, validation = rows(120), rows(300)
    losses = [
        log_loss(validation[1], LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(*train).predict_proba(v))
        for v in [validation[0].astype(np.float64)]
        for l2 in LinearProbe.PATH
    ]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1
    assert best_l2(train, validation, count, LinearProbe.PATH, intercept=True) == LinearProbe.PATH[best]


def test_a_chosen_l2_is_said_and_gives_what_that_number_alone_gives(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    chosen = run(start, data, phase(LinearProbe()), tmp_path)
    assert chosen.facts["l2_chosen_on"] == "25 validation rows"
    fixed = run(start, data, phase(LinearProbe(l2=float(chosen.facts["l2"]))), tmp_path)
    assert (fixed.weights, fixed.facts["l2"]) == (chosen.weights, chosen.facts["l2"])
    assert fixed.fingerprint != chosen.fingerprint
    assert "l2_chosen_on" not in fixed.facts


def test_without_validation_rows_l2_is_the_usual_one_and_says_so(start: Checkpoint, tmp_path: Path) -> None:
    bare = tiny_prepared(tmp_path / "data", {"train": tiny_rows(60)})
    ours, usual = (run(start, bare, phase(tuning), tmp_path) for tuning in (LinearProbe(), LinearProbe(l2=1.0)))
    assert (ours.facts["l2"], ours.facts["l2_chosen_on"]) == (1.0, "nothing, without validation rows")
    assert ours.weights == usual.weights


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_lora_checkpoint_is_the_merged_adapter(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, options: dict[str, bool]
) -> None:
    """peft, from the adapter folder and the start weights, gives the logits of the merged model."""
    from peft import PeftModel

    tuned = run(start, data, phase(LoRA(rank=2, alpha=8, dropout=0.1, **options)), tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tuned.path / "model").eval()
    original = AutoModelForSequenceClassification.from_pretrained(start.path / "model")
    adapted = PeftModel.from_pretrained(original, tuned.path / "adapter").eval()
    ids = torch.arange(5, 45).reshape(4, 10)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        start_logits = AutoModelForSequenceClassification.from_pretrained(start.path / "model")(input_ids=ids).logits
    assert not torch.allclose(plain(input_ids=ids).logits, start_logits, atol=1e-3)
    assert 0 < tuned.trained_parameters < tuned.parameters / 2


def test_layer_decay_slows_early_layers(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    settings = AdamW(learning_rate=1e-3, epochs=0.2, batch_size=75, schedule="constant", warmup=0, weight_decay=0)
    before = weights(start)
    after = weights(run(start, data, phase(Full(layer_decay=0.5), settings), tmp_path))
    step = {n: float((after[n] - before[n]).abs().max()) for n in before}
    # AdamW's first step has the size of the learning rate, whatever the gradient
    layer = "bert.encoder.layer.{}.attention.self.query.weight"
    assert step["classifier.weight"] == pytest.approx(1e-3, rel=0.05)
    assert step[layer.format(1)] == pytest.approx(0.5e-3, rel=0.05)
    assert step[layer.format(0)] == pytest.approx(0.25e-3, rel=0.05)
    assert step["bert.embeddings.LayerNorm.weight"] == pytest.approx(0.125e-3, rel=0.05)


def test_early_stopping_keeps_the_best_weights(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    """A rate that destroys the model: the kept weights are those of the best evaluation, not the last."""
    settings = AdamW(learning_rate=0.05, epochs=8, batch_size=16, schedule="constant", warmup=0)
    stopped = run(start, data, phase(Full(), settings, early_stopping=EarlyStopping(patience=2)), tmp_path)
    records = [r for r in curves.read(stopped.path / curves.FILE) if "validation_loss" in r]
    best = min(records, key=lambda r: r["validation_loss"])
    assert len(records) < 8
    assert len(records) - records.index(best) == 3
    split = open_split(data.path / "validation.arrow", LABELS)
    model = load_model(stopped.path / "model", "labeled")
    with torch.no_grad():
        total = Classification().loss(model, split.batch(range(len(split)), Collator.of(model))).total
    assert float(total) / len(split) == pytest.approx(best["validation_loss"], rel=1e-4)


def test_plateau_cuts_the_rate_when_validation_stalls(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    settings = AdamW(
        learning_rate=0.05,
        epochs=6,
        batch_size=16,
        schedule="plateau",
        warmup=0,
        plateau_patience=0,
        plateau_factor=0.1,
    )
    done = run(start, data, phase(Full(), settings), tmp_path)
    records = curves.read(done.path / curves.FILE)
    best, expected = float("inf"), 0.05
    for record in records:
        if "loss" in record:
            assert record["learning_rate"] == pytest.approx(expected)
        elif record["validation_loss"] < best:
            best = record["validation_loss"]
        else:
            expected *= 0.1
    assert expected < 0.05


def test_a_diverging_loss_fails_in_one_line_and_leaves_no_checkpoint(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    settings = AdamW(learning_rate=1e30, epochs=5, batch_size=16, warmup=0, clip_norm=None)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+ of 25.*lower optimizer.learning_rate"):
        run(start, data, phase(Full(), settings), tmp_path)
    assert not list((tmp_path / "stages" / "train").glob("*/artifact.json"))


def test_a_rate_too_small_to_move_a_weight_is_an_error(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="did not move in 10 steps"):
        run(start, data, phase(Full(), SGD(learning_rate=1e-30, epochs=2, batch_size=16)), tmp_path)


def test_no_supervised_row_is_an_error(start: Checkpoint, tmp_path: Path) -> None:
    empty = tiny_prepared(tmp_path / "data", {"validation": tiny_rows(5)})
    with pytest.raises(TrainingError, match="no supervised example in 0 training rows"):
        run(start, empty, phase(Full()), tmp_path)


def test_dropout_and_label_smoothing_reach_the_model(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    plain = run(start, data, phase(Full(), dropout=0.0), tmp_path)
    dropped = run(start, data, phase(Full(), dropout=0.5), tmp_path)
    smooth = run(start, data, phase(Full(), dropout=0.0, objective=Classification(label_smoothing=0.3)), tmp_path)
    first = [curves.read(c.path / curves.FILE)[0]["loss"] for c in (plain, dropped, smooth)]
    assert len(set(first)) == 3
    config = load_model(dropped.path / "model", "labeled").config
    assert config.hidden_dropout_prob == 0.1  # the published config is the model's own


def test_the_same_job_is_done_once(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    first = run(start, data, phase(Full()), tmp_path)
    stamp = (first.path / "model" / "model.safetensors").stat().st_mtime_ns
    again = run(start, data, phase(Full()), tmp_path)
    assert again == first
    assert (again.path / "model" / "model.safetensors").stat().st_mtime_ns == stamp
