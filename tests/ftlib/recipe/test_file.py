from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe, read_yaml

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_an_override_reaches_members_of_lists_by_name_and_by_position():
    by_name = load_recipe(QUICKSTART, ["phases.tune.optimizer.epochs=7"])
    by_position = load_recipe(QUICKSTART, ["phases[-1].optimizer.epochs=7"])
    assert by_name.phases[1].optimizer.epochs == by_position.phases[1].optimizer.epochs == 7
    assert by_name.phases[0] == load_recipe(QUICKSTART).phases[0]


def test_an_override_starts_a_group_that_the_recipe_left_to_its_defaults():
    assert load_recipe(QUICKSTART, ["phases.tune.early_stopping.patience=4"]).phases[1].early_stopping.patience == 4


def test_an_override_of_one_of_two_places_that_share_an_alias_leaves_the_other(write):
    data = read_yaml(write("a: &x {list: [1, 2]}\nb: *x\n"))
    data["a"]["list"][0] = 9
    assert data["b"] == {"list": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("off", "off"), ("yes", "yes"), ("1e-4", 1e-4), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("true", True)],
)
def test_plain_values_are_what_they_look_like(write, text, value):
    got = read_yaml(write(f"x: {text}\n"))["x"]
    assert (got, type(got)) == (value, type(value))


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60)
def test_every_float_that_python_prints_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(f"x: {value!r}\n")
    assert float(read_yaml(path)["x"]) == value


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("phases.tune.optimzer.epochs=1", ["phases[tune].optimzer", "unknown field", "did you mean 'optimizer'?"]),
        ("phases.tune.tuning.kind=lorra", ["phases[tune].tuning.kind", "'lorra'", "'lora'", "linear_probe"]),
        ("phases.tune.tuning={}", ["phases[tune].tuning", "needs a kind", "frozen_layers"]),
        ("phases.tun.seed=1", ["phases.tun", "no member 'tun'", "did you mean 'tune'?"]),
        ("phases.tune.tuning={kind: lora, rank: 0}", ["phases[tune].tuning.rank", "greater than 0", "got 0"]),
        ("phases.tune.tuning={kind: lora, rnk: 1}", ["phases[tune].tuning.rnk", "did you mean 'rank'?"]),
        ("datasets.comments.fromat.text=t", ["datasets.comments.fromat", "did you mean 'format'?"]),
        ("phases.probe.tuning.l2=fast", ["phases[probe].tuning.l2", "got 'fast'", "auto and numbers from 0 on"]),
        ("phases.probe.tuning.l2=-1", ["phases[probe].tuning.l2", "got -1", "auto and numbers from 0 on"]),
        ("evaluations.shifted.metrics=[{kind: acuracy}]", ["evaluations.shifted.metrics[0].kind", "'accuracy'"]),
        ("select.by=shifted/f1", ["select.by", "'shifted/f1'", "shifted/macro_f1"]),
        (
            "datasets.comments.source={kind: files, path: r, drop_columns: [a, text]}",
            ["datasets.comments.source.drop_columns: text is read", "leave it in"],
        ),
        ("seed=x", ["seed", "valid integer", "'x'"]),
        ("name.first=x", ["name is a text"]),
        ("nonsense", ["'nonsense' is no override", "path=value"]),
        ("seed=[1", ["is no YAML value"]),
    ],
)
def test_a_problem_is_one_line_with_its_path_and_the_remedy(override, says):
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, [override])
    (line,) = str(caught.value).splitlines()
    assert all(part in line for part in says), line


def test_every_problem_gets_its_own_line():
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, ["seed=x", "model.pth=y", "compute.workers=-1"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert {line.split(": ")[1] for line in lines} == {"seed", "model.pth", "compute.workers"}


def test_parts_that_do_not_fit_together_are_all_named():
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, ["select.by=a/b", "phases.tune.dataset=nowhere"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\n  bad: [", "line 2"),
        ("name: a\nname: b\n", "'name' is given twice"),
        ("- a\n", "holds a list"),
        ("", "holds nothing"),
        ("name: \x00\n", "fix the YAML"),
    ],
)
def test_broken_yaml_names_its_line(write, text, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(write(text))


def test_a_file_that_cannot_be_read_is_a_recipe_error(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


CAUSAL = Path(__file__).parents[3] / "recipes" / "completions.yaml"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluations.answers.max_new_tokens=0"], "'exact_match' reads what the model writes; give max_new_tokens"),
        (["evaluations.prose.max_new_tokens=8"], "evaluations.prose.max_new_tokens: 'tokens' batches have no prompts"),
        (["evaluations.prose.metrics=[{kind: rouge}]"], "'rouge' needs 'completions' batches, but dataset 'readmes'"),
        (["evaluations.fit.metrics=[{kind: accuracy}]"], "'accuracy' needs 'labeled' batches, but dataset 'support'"),
        (["phases.tune.objective.kind=causal_lm"], "'causal_lm' needs 'tokens' batches, but dataset 'support'"),
        (
            [
                "datasets.support.format={kind: labeled_text, text: prompt, label: completion}",
                "phases.tune.objective.kind=classification",
            ],
            "a model trained on labeled does not answer 'tokens' batches",
        ),
        (
            ["evaluations.answers.metrics=[{kind: rouge}, {kind: rouge, use_stemmer: true}]"],
            "evaluations.answers.metrics: rougeL is there twice",
        ),
    ],
)
def test_what_does_not_fit_prompts_is_said(overrides, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(CAUSAL, overrides)
    assert any(said in line for line in str(caught.value).splitlines()), str(caught.value)


def test_a_language_model_may_learn_from_text_and_then_from_prompts():
    text = (
        "{name: read, dataset: readmes, objective: {kind: causal_lm}, tuning: {kind: full}}, "
        "{name: tune, dataset: support, objective: {kind: completion}, tuning: {kind: lora}}"
    )
    split = "datasets.readmes.split={by: random}"
    assert [phase.objective.needs for phase in load_recipe(CAUSAL, [f"phases=[{text}]", split]).phases] == [
        "tokens",
        "completions",
    ]


def test_a_metric_whose_package_is_absent_says_what_to_install(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rouge_score" else real(name))
    with pytest.raises(RecipeError) as caught:
        load_recipe(CAUSAL)
    (line,) = str(caught.value).splitlines()
    assert "evaluations.answers: 'rouge' needs the package 'rouge_score'" in line
    assert "pip install 'reglage[generation]'" in line


def test_a_threshold_of_no_answer_needs_questions_without_one():
    path = Path(__file__).parents[3] / "recipes" / "question_answering.yaml"
    wanted = "evaluations.manuals.metrics=[{kind: answer_f1, null_score_diff_threshold: -1}]"
    with pytest.raises(RecipeError, match=r"every question of dataset 'manuals' has an answer.*unanswerable: keep"):
        load_recipe(path, [wanted])
    kept = load_recipe(path, [wanted, "datasets.manuals.format.unanswerable=keep"])
    again = type(kept).model_validate(kept.model_dump())  # as a published version holds it, every default written out
    assert again == kept
    assert type(kept).model_validate(load_recipe(path).model_dump()) == load_recipe(path)
