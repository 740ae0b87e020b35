"""What a job's identity is, written out by hand: changing one of these lines re-runs every user's finished stages."""

import hashlib

from ftlib.data.datasets import Ledger, PreparedDataset
from ftlib.data.limits import Limits
from ftlib.data.listed import FileVersion
from ftlib.data.sources.files import Files
from ftlib.merging.interpolation.wise_ft import WiseFT
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.ingest import IngestJob
from ftlib.stages.interpolate import InterpolateJob
from ftlib.stages.train import TrainJob
from ftlib.training.compute import Compute
from ftlib.training.objectives.classification import Classification
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full

FILE = hashlib.sha256(b'["rows.jsonl",3,"ff"]').hexdigest()
INGEST = (
    f'{{"job":{{"columns":{{}},"files":["{FILE}"],"key":"id",'
    '"limits":{"bad_row_count":null,"bad_rows":0.01,"dropped_rows":0.5,"duplicate_rows":1.0,"max_bytes":1000000000000,'
    '"max_rows":100000000,"row_bytes":1000000,"rows":10,"rows_per_label":1,"vanished":0.2},'
    '"source":{"drop_columns":[],"endpoint_url":null,"kind":"files","marker":null,"path":"rows.jsonl","settle_seconds":0.0},"updated":null},"stage":"ingest","version":3}'
)
START = hashlib.sha256(b'["aa","t","cc",["a","b"]]').hexdigest()
END = hashlib.sha256(b'["bb","t","cc",["a","b"]]').hexdigest()
INTERPOLATE = (
    f'{{"job":{{"end":"{END}","interpolation":{{"alphas":[0.0,0.5,1.0],"depth":[],"kind":"wise_ft","modules":{{}},"refine":0}},'
    f'"scores":[],"siblings":[],"start":"{START}"}},"stage":"interpolate","version":2}}'
)
TRAIN = (
    '{"job":{"compute":"","data":"cc","phase":{"dataset":"docs","dropout":null,"early_stopping":null,'
    '"ema_decay":null,"evaluations_per_epoch":1,"name":"tune","objective":{"kind":"classification","label_smoothing":0.0},'
    '"optimizer":{"batch_size":32,"beta1":0.9,"beta2":0.999,"clip_norm":1.0,"epochs":3.0,"epsilon":1e-08,'
    '"learning_rate":2e-05,"plateau_factor":0.5,"plateau_patience":1,"schedule":"linear","warmup":0.06,'
    '"weight_decay":0.01},"precision":"auto","tuning":{"kind":"full","layer_decay":1.0}},"precision":"fp32",'
    f'"seed":0,"start":"{START}"}},"stage":"train","version":2}}'
)


def sha(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def checkpoint(weights: str, phase: str) -> Checkpoint:
    return Checkpoint(
        weights=weights, parent=None, tokenizer="t", config="cc", phase=phase, fresh_head=False, labels=("a", "b"),
        parameters=1, trained_parameters=1,
    )  # fmt: skip


def data() -> PreparedDataset:
    return PreparedDataset(
        content="cc", kind="labeled", labels=("a", "b"), splits={}, ledger=Ledger(rows_in=0, kept=0), leaked=0,
        tokenizer="t",
    )  # fmt: skip


def train_job(**compute: object) -> TrainJob:
    phase = Phase(name="tune", dataset="docs", objective=Classification(), tuning=Full())
    return TrainJob(
        start=checkpoint("aa", "base"), data=data(), phase=phase, precision="fp32", seed=0, compute=Compute(**compute)
    )


def test_ingest_is_its_source_its_files_and_its_limits_whatever_the_dataset_is_called():
    for name, version in (("docs", "as it was"), ("other", "touched")):
        files = (FileVersion(uri="rows.jsonl", bytes=3, sha256="ff", version=version),)
        job = IngestJob(name=name, source=Files(path="rows.jsonl"), files=files, limits=Limits(), key="id")
        assert job.fingerprint == sha(INGEST)


def test_interpolate_is_both_ends_and_the_points():
    job = InterpolateJob(
        start=checkpoint("aa", "probe"), end=checkpoint("bb", "tune"), interpolation=WiseFT(alphas=(0.0, 0.5, 1.0))
    )
    assert job.fingerprint == sha(INTERPOLATE)


def test_train_is_start_data_phase_precision_and_seed_never_compute():
    assert train_job().fingerprint == sha(TRAIN)
    assert train_job(workers=4, use_gpu=True, sharding="fsdp", threads=3).fingerprint == sha(TRAIN)
