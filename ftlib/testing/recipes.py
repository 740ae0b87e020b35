"""A whole recipe with its model and rows."""

from __future__ import annotations

from pathlib import Path

from ftlib.testing.models import tiny_classifier
from ftlib.testing.rows import tiny_rows, write_jsonl

_RECIPE = """
name: tiny
model: {{path: {folder}/model}}
datasets:
  home:
    source: {{kind: files, path: {folder}/home.jsonl}}
    format: {{kind: labeled_text, text: text, label: label, max_tokens: 32}}
  away:
    source: {{kind: files, path: {folder}/away.jsonl}}
    format: {{kind: labeled_text, text: text, label: label, max_tokens: 32}}
    split: {{validation: 0.5, test: 0.5}}
phases:
  - {{name: probe, dataset: home, objective: {{kind: classification}}, tuning: {{kind: linear_probe}}}}
  - name: tune
    dataset: home
    objective: {{kind: classification}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 1, learning_rate: 1e-3}}
evaluations:
  home: {{dataset: home, metrics: [{{kind: accuracy}}, {{kind: macro_f1}}], resamples: 100}}
  away: {{dataset: away, role: shifted, metrics: [{{kind: accuracy}}, {{kind: macro_f1}}], resamples: 100}}
interpolation: {{kind: wise_ft, alphas: [0, 0.5, 1]}}
select: {{rule: best, by: away/accuracy}}
publish: {{name: tiny-router, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""


def tiny_recipe(folder: Path) -> Path:
    """Write a whole recipe with its model and rows: LP-FT, two evaluations, WiSE-FT, a registry in the folder."""
    tiny_classifier(folder / "model")
    write_jsonl(folder / "home.jsonl", tiny_rows(120))
    write_jsonl(folder / "away.jsonl", tiny_rows(60, seed=1))
    path = folder / "tiny.yaml"
    path.write_text(_RECIPE.format(folder=folder), encoding="utf-8")
    return path
