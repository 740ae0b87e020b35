import pytest

from ftlib.errors import ModelError, first_line
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n  bad shape  \nmore of it"), "bad shape"),
        (RuntimeError("Error(s) in loading state_dict for Bert:\n\tsize mismatch for head"), "size mismatch for head"),
        (ValueError("Nothing follows:"), "Nothing follows:"),
        (OSError(), "OSError()"),
        (ValueError(" \n"), "ValueError(' \\n')"),
        (KeyError("mistral9"), "KeyError('mistral9')"),
    ],
)
def test_a_foreign_error_is_said_in_one_line(error: Exception, said: str):
    assert first_line(error) == said


def test_a_hub_that_fails_without_a_word_is_still_a_model_error(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(ModelError, match=r"the hub did not give it: OSError\(\)"):
        find_model(ModelRef(path="a/b", revision="0" * 40))
