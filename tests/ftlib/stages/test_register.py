"""From records to a version that a stranger can load; and everything that must stop it on the way."""

import json
import re
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

import ftlib.merging.adapters as adapters
import ftlib.merging.candidate_weights as merge
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset
from ftlib.data.listed import FileVersion
from ftlib.data.prepared import split_file
from ftlib.data.rows import Checked
from ftlib.data.snapshot import write_snapshot
from ftlib.errors import IntegrityError, StorageError
from ftlib.evaluation.measured import Estimate, EvalReport, Measured, tables_in
from ftlib.evaluation.selection import Selection
from ftlib.fingerprint import file_digest
from ftlib.kinds.open_split import open_split
from ftlib.kinds.writing import save_model
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.files import Merged
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import find_model, weights_digest
from ftlib.models.reference import ModelRef
from ftlib.published.ancestry import Ancestry
from ftlib.published.card import model_card
from ftlib.published.lineage import trained_rows
from ftlib.published.predict import predict
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.report.report import Report
from ftlib.stages.register import RegisterJob, _stage, register
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_row_id, tiny_rows
from ftlib.workspace import Workspace


def recipe(registry: object, gate: float, labeled: bool = True) -> Recipe:
    form = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32}
    metric = "accuracy" if labeled else "perplexity"
    return Recipe.model_validate(
        {
            "name": "demo",
            "model": {"path": "models/tiny"},
            "datasets": {
                "tickets": {
                    "source": {"kind": "files", "path": "rows.jsonl"},
                    "format": form if labeled else {"kind": "plain_text", "text": "text"},
                }
            },
            "phases": [
                {
                    "name": "probe" if labeled else "warm",
                    "dataset": "tickets",
                    "objective": {"kind": "classification" if labeled else "causal_lm"},
                    "tuning": {"kind": "linear_probe" if labeled else "full"},
                },
                {
                    "name": "tune",
                    "dataset": "tickets",
                    "objective": {"kind": "classification" if labeled else "causal_lm"},
                    "tuning": {"kind": "full"},
                },
            ],
            "evaluations": {"held_out": {"dataset": "tickets", "metrics": [{"kind": metric}]}},
            "interpolation": {"kind": "wise_ft"},
            "select": {"by": f"held_out/{metric}", "gates": [{"metric": f"held_out/{metric}", "at_least": gate}]},
            "publish": {"name": "demo", "to": registry, "description": "Routes tickets.", "license": "apache-2.0"},
        }
    )


class Run:
    """The records of a finished run on tiny models, everything before `register`."""

    def __init__(self, folder: Path, alpha: float, *, gate: float, registry: object, labeled: bool) -> None:
        labels = LABELS if labeled else ()
        rows = tiny_rows(40)
        self.data: PreparedDataset = tiny_prepared(
            folder / "prepared",
            {"train": rows[:20], "validation": rows[20:28], "test": rows[28:]},
            kind="labeled" if labeled else "tokens",
        )
        start: Checkpoint = tiny_checkpoint(folder / "start", labels, phase="probe")
        end: Checkpoint = tiny_checkpoint(folder / "end", labels, phase="tune", start=start, seed=1)
        self.chosen = Candidate.between(start, end, alpha)
        self.recipe = recipe(registry, gate, labeled)
        metric = self.recipe.evaluations["held_out"].metrics[0].kind
        cell = Measured(
            candidate=self.chosen.name,
            weights=self.chosen.digest(),
            alpha=alpha,
            evaluation="held_out",
            split="test",
            rows=12,
            outcomes="outcomes/x.parquet",
            metrics={metric: Estimate(value=0.75, low=0.5, high=0.9)},
        )
        (folder / "raw").mkdir()
        checked = (Checked(row, tiny_row_id("train", i), file=0) for i, row in enumerate(rows))
        write_snapshot(folder / "raw" / "rows.parquet", checked)
        self.raw = RawDataset(
            uri=str(folder / "raw"),
            content="c" * 64,
            columns=("text", "label"),
            files=(FileVersion(uri="rows.jsonl", bytes=1234, sha256="f" * 64),),
            ledger=Ledger(rows_in=40, kept=40),
        )
        evidence = Evidence(
            recipe=self.recipe,
            model=FoundModel(name="models/tiny", uri=str(folder), weights="w" * 64, tokenizer="t" * 64),
            raw={"tickets": self.raw},
            prepared={"tickets": self.data},
            checkpoints=(start, end),
            candidates=Candidates(members=(self.chosen,)),
            sweep=(),
            selection=Selection(chosen=self.chosen, rule="The best held_out score.", why="It had the best."),
            final=(EvalReport(measured=(cell,)),),
        )
        self.job = RegisterJob(evidence=evidence, report=self._report(folder / "report"))
        self.work = Workspace(folder / "work")

    def _report(self, folder: Path) -> Report:
        folder.mkdir()
        (folder / "report.html").write_text("<html>the run</html>")
        (folder / "alpha_curve.png").write_bytes(b"png")
        return Report(
            uri=str(folder), html="report.html", markdown="report.md", plots=("alpha_curve.png",), fingerprint="r"
        )

    def register(self) -> ModelVersion | Refusal:
        return register(self.job, self.work)

    def logits(self, model: Any) -> torch.Tensor:
        """Every test row by itself: no padding, no batching of ours."""
        split = open_split(split_file(self.data.path, "test"), LABELS)
        with torch.inference_mode():
            rows = [torch.tensor(np.asarray(split.tokens(i)))[None].long() for i in range(len(split))]
            return torch.cat([model(input_ids=row).logits.flatten() for row in rows])


@pytest.fixture
def make(tmp_path: Path):
    def make(alpha: float = 0.4, *, gate: float = 0.5, registry: object = None, labeled: bool = True) -> Run:
        to = registry or {"kind": "folder", "path": str(tmp_path / "registry")}
        return Run(tmp_path, alpha, gate=gate, registry=to, labeled=labeled)

    return make


def published(run: Run) -> ModelVersion:
    version = run.register()
    assert isinstance(version, ModelVersion)
    return version


def pulled(version: ModelVersion, target: Path) -> Path:
    registry = ModelRegistry(LocalStore(Path(version.registry)))
    registry.pull(registry.version(version.name, version.version), target)
    return target


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_stock_transformers_loads_what_was_published_and_agrees(make, tmp_path: Path, alpha: float):
    run = make(alpha)
    version = published(run)
    folder = pulled(version, tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    ours = AutoModelForSequenceClassification.from_pretrained(run.chosen.start.path / "model").eval()
    ends = [load_file(c.path / "model" / "model.safetensors") for c in (run.chosen.start, run.chosen.end)]
    numbers = {  # by numpy in double precision, not by the kernel under test
        name: torch.from_numpy(
            ((1 - alpha) * ends[0][name].double().numpy() + alpha * ends[1][name].double().numpy()).astype(np.float32)
        )
        for name in ends[0]
    }
    ours.load_state_dict(numbers, strict=False)
    torch.testing.assert_close(run.logits(theirs), run.logits(ours), rtol=0, atol=2e-5)
    assert version.logit_difference == 0.0
    assert tuple(theirs.config.id2label.values()) == LABELS
    assert AutoTokenizer.from_pretrained(folder)("refund")["input_ids"]


def test_the_ends_are_byte_copies(make, tmp_path: Path):
    run = make(1.0)
    folder = pulled(published(run), tmp_path / "out")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (run.chosen.end.path / "model" / name).read_bytes()


def publishing(run: Run, **fields: object) -> Run:
    """The same run with other fields of `publish`."""
    other = run.recipe.model_copy(update={"publish": run.recipe.publish.model_copy(update=fields)})
    evidence = run.job.evidence.model_copy(update={"recipe": other})
    run.job = run.job.model_copy(update={"evidence": evidence})
    return run


def test_a_model_is_cut_into_shards_that_stay_where_it_stayed(make, tmp_path: Path):
    run = publishing(make(1.0), shard_mb=0.002)
    first = pulled(published(run), tmp_path / "first")
    shards = sorted(path.name for path in first.glob("*.safetensors"))
    assert len(shards) > 3
    assert weights_digest(first) == run.chosen.end.weights
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    before = {file.path: file.sha256 for file in registry.manifest(registry.version("demo")).files}
    second = pulled(published(publishing(make_end_differ(run), shard_mb=0.002)), tmp_path / "second")
    after = {file.path: file.sha256 for file in registry.manifest(registry.version("demo")).files}
    assert second != first
    assert [name for name in shards if before[name] != after[name]] == [shards[-1]]


def make_end_differ(run: Run) -> Run:
    """Change the head of the end, as another training of the head alone would."""
    folder = run.chosen.end.path / "model"
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    end = run.chosen.end.model_copy(update={"weights": weights_digest(folder)})
    chosen = run.chosen.model_copy(update={"end": end})
    selection = run.job.evidence.selection.model_copy(update={"chosen": chosen})
    run.job = run.job.model_copy(update={"evidence": run.job.evidence.model_copy(update={"selection": selection})})
    return run


def with_adapter(run: Run, folder: Path, alpha: float) -> Run:
    """The same run, its end a LoRA phase's: merged weights, and beside them the adapter that peft wrote."""
    base = run.chosen.start.path / "model"
    model: Any = AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS")
    wrapped: Any = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator) * parameter.requires_grad
    wrapped.save_pretrained(folder / "adapter")
    save_model(wrapped.merge_and_unload(), folder / "model", LABELS, base)
    end = run.chosen.end.model_copy(update={"uri": str(folder), "weights": weights_digest(folder / "model")})
    chosen = Candidate.between(run.chosen.start, end, alpha)
    evidence = run.job.evidence
    selection = evidence.selection.model_copy(update={"chosen": chosen})
    found = evidence.model.model_copy(update={"uri": str(base), "name": "owner/base@" + "a" * 40})
    recipe = evidence.recipe.model_copy(
        update={"publish": evidence.recipe.publish.model_copy(update={"adapter": True})}
    )
    update = {"selection": selection, "model": found, "recipe": recipe}
    run.job = run.job.model_copy(update={"evidence": evidence.model_copy(update=update)})
    return run


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_published_adapter_over_the_base_is_the_published_model(make, tmp_path: Path, alpha: float):
    run = with_adapter(make(alpha), tmp_path / "lora", alpha)
    folder = pulled(published(run), tmp_path / "out")
    # A stranger's way: the base with a head of its own, random, and the adapter over it.
    base = AutoModelForSequenceClassification.from_pretrained(run.chosen.start.path / "model").eval()
    torch.nn.init.normal_(base.classifier.weight)
    over = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    merged = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(run.logits(over), run.logits(merged), rtol=0, atol=2e-5)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "a" * 40)


def test_the_gate_has_one_whole_model_in_memory_at_a_time(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The published one, the measured one, the base under the adapter: each is gone when the next is made."""
    run, made, together = with_adapter(make(), tmp_path / "lora", 0.4), list[weakref.ref[Any]](), list[int]()
    begin = BertForSequenceClassification.__init__

    def counted(self: Any, *given: Any, **named: Any) -> None:
        made.append(weakref.ref(self))
        together.append(sum(model() is not None for model in made))
        begin(self, *given, **named)

    monkeypatch.setattr(BertForSequenceClassification, "__init__", counted)
    published(run)
    assert len(made) >= 4
    assert max(together) == 1


@pytest.mark.parametrize("name", ["package:some_module/model", "owner/base@" + "a" * 40])
def test_the_card_loads_the_adapter_over_the_base(make, tmp_path: Path, name: str):
    run = with_adapter(make(0.4), tmp_path / "lora", 0.4)
    found = run.job.evidence.model.model_copy(update={"name": name})
    card = model_card(run.job.evidence.model_copy(update={"model": found}))
    folder = pulled(published(run), tmp_path / "out")
    code = re.findall(r"```python\n(.*?)```", card.partition("### The adapter alone")[2], re.DOTALL)[0]
    asked = '"path/to/the/base/model"' if "package:" in name else f'"owner/base", revision="{"a" * 40}"'
    assert code.count(asked) == 1
    code = code.replace(asked, repr(str(run.chosen.start.path / "model")))
    loaded: dict[str, Any] = {}
    exec(compile(code.replace("path/to/this/folder", str(folder)), "card", "exec"), loaded)
    merged = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(run.logits(loaded["model"].eval()), run.logits(merged), rtol=0, atol=2e-5)
    assert ("cannot open on its own" in card) == ("package:" in name)


def test_a_version_without_an_adapter_does_not_speak_of_one(make):
    assert "adapter" not in model_card(make().job.evidence)


def test_an_adapter_at_another_place_is_not_published(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = adapters.write_scaled

    def wrong(adapter: Path, base: Path, merge: Any, out: Path, stands_on: Any) -> list[str]:
        return right(adapter, base, merge.model_copy(update={"alpha": merge.alpha / 2}), out, stands_on)

    monkeypatch.setattr(adapters, "write_scaled", wrong)
    with pytest.raises(IntegrityError, match="the adapter read back from the registry gives logits that differ"):
        with_adapter(make(0.8), tmp_path / "lora", 0.8).register()
    assert ModelRegistry(LocalStore(tmp_path / "registry")).versions("demo") == []


def test_a_signed_version(make, tmp_path: Path):
    key, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    words = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key)]
    subprocess.run(words, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)], check=True)
    version = published(publishing(make(), sign_with=str(key)))
    registry = ModelRegistry(LocalStore(Path(version.registry)))
    assert registry.verify(registry.version("demo"), PublicKey(public)) == []


def test_a_language_model_goes_the_same_way(make, tmp_path: Path):
    run = make(0.5, labeled=False)
    version = published(run)
    folder = pulled(version, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    assert version.logit_difference == 0.0
    assert torch.isfinite(run.logits(theirs)).all()
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "text-generation"


def test_a_gate_refuses_and_nothing_is_written(make, tmp_path: Path):
    refusal = make(gate=0.8).register()
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("held_out/accuracy is 0.7500 on the test split, at least 0.8 is required",)
    assert not (tmp_path / "registry").exists()


def test_a_value_on_the_threshold_passes(make):
    assert isinstance(make(gate=0.75).register(), ModelVersion)


def test_the_same_job_again_is_the_same_version(make):
    run = make()
    first = published(run)
    again = published(run)
    assert (first.created, again.created) == (True, False)
    assert again.model_copy(update={"created": True}) == first


def test_a_lost_work_folder_finds_the_version_by_its_key(make, tmp_path: Path):
    run = make()
    first = published(run)
    run.work = Workspace(tmp_path / "another")
    again = published(run)
    assert (again.version, again.manifest, again.created) == (first.version, first.manifest, False)


def test_a_lost_registry_is_published_to_again(make, tmp_path: Path):
    run = make()
    published(run)
    (tmp_path / "registry").rename(tmp_path / "gone")
    version = published(run)
    assert (version.version, version.created) == (1, True)
    assert pulled(version, tmp_path / "out")


def test_a_wrongly_written_tensor_stops_at_the_logits(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every digest is right here; only the logits can tell."""
    write = merge.write_candidate

    def wrong(candidate: Candidate, out: Path, base: Any = None) -> Merged:
        merged = write(candidate, out, base)
        tensors = load_file(out / "model.safetensors")
        tensors["classifier.bias"] = tensors["classifier.bias"] + 1e-3
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return merged

    monkeypatch.setattr(merge, "write_candidate", wrong)
    with pytest.raises(IntegrityError, match=r"logits that differ by 0\.001 .* nothing was published"):
        make().register()
    assert ModelRegistry(LocalStore(tmp_path / "registry")).versions("demo") == []


def test_a_store_that_alters_bytes_stops_at_the_digest(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put = LocalStore.put_file

    def altering(self: LocalStore, source: Path, path: str, sha256: str) -> None:
        put(self, source, path, sha256)
        blob = self.root / path
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(bytes(data))

    monkeypatch.setattr(LocalStore, "put_file", altering)
    with pytest.raises(IntegrityError, match="its bytes were changed"):
        make().register()
    assert ModelRegistry(LocalStore(tmp_path / "registry")).versions("demo") == []


def test_labels_in_another_order_stop_it(make, monkeypatch: pytest.MonkeyPatch):
    write = merge.write_candidate

    def renamed(candidate: Candidate, out: Path, base: Any = None) -> Merged:
        merged = write(candidate, out, base)
        config = json.loads((out / "config.json").read_text())
        config["id2label"] = dict(enumerate(reversed(LABELS)))
        (out / "config.json").write_text(json.dumps(config))
        return merged

    monkeypatch.setattr(merge, "write_candidate", renamed)
    with pytest.raises(IntegrityError, match="names its labels sales, bug, billing"):
        make().register()


def test_a_failed_publish_can_be_run_again(make, monkeypatch: pytest.MonkeyPatch):
    run = make()
    with monkeypatch.context() as broken:
        broken.setattr(LocalStore, "create", lambda *_: (_ for _ in ()).throw(StorageError("x: No space left; free")))
        with pytest.raises(StorageError, match="No space left"):
            run.register()
    assert published(run).created


def test_the_card_is_one_that_hugging_face_reads(make, tmp_path: Path):
    run = make()
    folder = pulled(published(run), tmp_path / "out")
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.pipeline_tag, data.library_name) == ("apache-2.0", "text-classification", "transformers")
    assert {"reglage", "wise-ft", "linear-probe", "full"} == set(data.tags)
    (result,) = data.eval_results or []
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "test")
    for section in ("## Use", "## Results", "## How it was made", "## Data", "## Limits"):
        assert section in card.text
    assert r"0.750 \[0.500, 0.900\]" in card.text
    for picture in ("plots/alpha_curve.png",):
        assert f"]({picture})" in card.text
        assert (folder / picture).is_file()


def test_equal_content_has_an_equal_manifest_however_long_it_took(make, tmp_path: Path):
    job = make().job
    facts = {"samples_per_second": 2.5, "seconds": 9.0, "peak_memory_bytes": 7}
    slower = [c.model_copy(update={"facts": facts, "seconds": 8.0}) for c in job.evidence.checkpoints]
    again = job.model_copy(update={"evidence": job.evidence.model_copy(update={"checkpoints": tuple(slower)})})
    tables = tables_in(Workspace(tmp_path / "work"))
    assert _stage(job, tmp_path / "a", tables).digest() == _stage(again, tmp_path / "b", tables).digest()


def test_what_a_user_or_a_row_gave_stays_text_in_the_card(make):
    """As a Markdown library of its own reads it: no tag, picture, link, list or table of theirs, every letter there."""
    from markdown_it import MarkdownIt

    evil = (
        "bug<script>alert(1)</script>",
        "![x](javascript:alert) [c](http://evil)",
        "a | b ``c`` `d`",
        "line\n\n# two\n---\nlicense: evil",
        "&lt;b&gt; <b>*x*</b> _y_ ~~z~~ https://evil.example www.evil.example a@evil.example",
    )
    evidence = make().job.evidence
    publish = evidence.recipe.publish.model_copy(update={"description": "\n".join(evil), "license": evil[3]})
    recipe = evidence.recipe.model_copy(update={"publish": publish})
    end = evidence.selection.chosen.end.model_copy(update={"labels": evil, "phase": "a`b|c"})
    chosen = evidence.selection.chosen.model_copy(update={"end": end})
    selection = evidence.selection.model_copy(update={"chosen": chosen, "why": f"It had {evil[2]}.", "rule": evil[1]})
    found = evidence.model_copy(update={"recipe": recipe, "selection": selection})
    card = model_card(found, ["plots/a.png"])
    matter, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    assert yaml.safe_load(matter)["license"] == evil[3]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [child for token in tokens for child in token.children or ()]
    assert not [t for t in (*tokens, *inner) if t.type in ("html_block", "html_inline", "link_open", "hr", "s_open")]
    assert [t.attrs["src"] for t in inner if t.type == "image"] == ["plots/a.png"]
    assert [t.markup for t in tokens if t.type == "heading_open"] == ["#", *["##"] * 5]
    shown = ["".join(t.content for t in token.children) for token in tokens if token.type == "inline"]
    assert " ".join(" ".join(evil).split()) in shown
    assert any(all(" ".join(label.split()) in line for label in evil) for line in shown)
    assert any("a`b|c" in line for line in shown)
    autolinks = re.findall(r"(?:https?://|www\.)evil|\ba@evil", text)
    assert not autolinks  # which GitHub would make links without any brackets


def test_the_manifest_says_what_it_was_made_from(make, tmp_path: Path):
    run = make()
    version = published(run)
    folder = pulled(version, tmp_path / "out")
    assert file_digest(folder / MANIFEST) == version.manifest
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    lineage: Any = manifest.lineage
    assert manifest.metrics == {"held_out/accuracy": 0.75}
    assert Recipe.model_validate(lineage["recipe"]) == run.recipe
    assert lineage["data"]["tickets"]["prepared"] == run.data.content
    assert lineage["data"]["tickets"]["raw"] == run.raw.content
    assert lineage["data"]["tickets"]["files"] == [{"uri": "rows.jsonl", "bytes": 1234, "sha256": "f" * 64, "rows": 40}]
    assert lineage["data"]["tickets"]["index"]["splits"] == {"train": 20, "validation": 8, "test": 12}
    assert lineage["base_model"]["weights"] == "w" * 64
    weights = lineage["weights"]
    assert (weights["start"], weights["end"], weights["alpha"]) == (
        run.chosen.start.weights,
        run.chosen.end.weights,
        0.4,
    )
    assert lineage["code"]["torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert (lineage["code"]["commit"] or "").removesuffix("-dirty") == head.stdout.strip()
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    assert names == {file.path for file in manifest.files}
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".py")) for name in names)


def test_a_version_knows_which_rows_trained_it(make, tmp_path: Path):
    run = make()
    registry = ModelRegistry(LocalStore(Path(published(run).registry)))
    found = trained_rows(registry, registry.version("demo"))
    assert {name: [row.hex() for row in rows] for name, rows in found.items()} == {
        "tickets": sorted(tiny_row_id("train", i) for i in range(20))
    }


def test_another_model_of_the_same_rows_stores_no_index_again(make, tmp_path: Path):
    run = make(1.0)
    published(run)
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    published(make_end_differ(run))
    of = [{f.path: f.sha256 for f in registry.manifest(v).files} for v in registry.versions("demo")]
    assert len(of) == 2
    assert of[0]["model.safetensors"] != of[1]["model.safetensors"]
    rows = [path for path in of[0] if path.startswith("lineage/")]
    assert rows == [f"lineage/tickets/{split}.rows" for split in ("test", "train", "validation")]
    assert [of[0][path] for path in rows] == [of[1][path] for path in rows]


@pytest.mark.parametrize("shard_mb", [256, 0.002])
def test_a_training_from_a_pulled_version_is_traced_to_it(make, tmp_path: Path, shard_mb: float):
    run = publishing(make(), shard_mb=shard_mb)
    base = find_model(ModelRef(path=str(pulled(published(run), tmp_path / "out"))))
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    child = Manifest(
        name="child", description="", files=(), metrics={}, lineage={"base_model": {"weights": base.weights}}
    )
    registry.publish(child, tmp_path, "k", lambda _: None, tmp_path)
    assert Ancestry.read(registry).parents("child@1") == ["demo@1"]


def test_a_version_without_an_index_says_so(make, tmp_path: Path):
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    bare = Manifest(name="old", description="", files=(), metrics={}, lineage={"data": {"tickets": {}}})
    registry.publish(bare, tmp_path, "k", lambda _: None, tmp_path)
    with pytest.raises(StorageError, match="old@1 has no index of its rows"):
        trained_rows(registry, registry.version("old"))


def test_s3_goes_the_same_way(make, tmp_path: Path, bucket, s3_endpoint: str):
    run = make(registry={"kind": "s3", "bucket": bucket.name, "prefix": "models", "endpoint_url": s3_endpoint})
    version = published(run)
    assert version.registry == f"s3://{bucket.name}/models"
    assert published(run).created is False
    registry = ModelRegistry(run.recipe.publish.to.store())
    registry.pull(registry.version("demo"), tmp_path / "out")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", local_files_only=True)


class TestPredict:
    def test_it_answers_as_stock_transformers_does(self, make, tmp_path: Path):
        folder = pulled(published(make()), tmp_path / "out")
        texts = [str(row["text"]) for row in tiny_rows(30, seed=9)] + ["word " * 200, "", "naïve\u0301  x\t y"]
        found = list(predict(folder, texts, batch_size=7))
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text, prediction in zip(texts, found, strict=True):
            encoded = tokenizer(" ".join(text.split()), truncation=True, max_length=32, return_tensors="pt")
            with torch.inference_mode():
                expected = model(**encoded).logits.softmax(-1)[0]
            assert prediction.label == LABELS[int(expected.argmax())]
            assert list(prediction.probabilities) == list(LABELS)
            np.testing.assert_allclose(list(prediction.probabilities.values()), expected.numpy(), atol=1e-5)

    def test_memory_is_bounded_by_the_window(self, make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        import ftlib.published.predict as inference

        monkeypatch.setattr(inference, "WINDOW", 8)
        folder = pulled(published(make()), tmp_path / "out")
        taken = 0

        def texts():
            nonlocal taken
            for n in range(1000):
                taken += 1
                yield f"refund {n}"

        answers = predict(folder, texts(), batch_size=4)
        next(answers)
        assert taken == 8
