"""What a run's end says of paths, columns and reasons that others wrote."""

import pytest

from flows.command_line.console import stdout_console
from flows.command_line.run_summary import outcome_line, print_page
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.places.folder import Folder
from ftlib.registry.publish import Publish

PUBLISH = Publish(name="m", to=Folder(path="[bot]/[/x]"))


def printed(result: ModelVersion | Refusal, capsys: pytest.CaptureFixture[str]) -> str:
    stdout_console().print(outcome_line(result, PUBLISH), soft_wrap=True, markup=True)
    return capsys.readouterr().out


def test_a_page_is_named_as_its_place_is(capsys: pytest.CaptureFixture[str]):
    print_page(stdout_console(), "report", "/tmp/[bot]/[/x]/:x:", "runs/r/report.html")
    assert capsys.readouterr().out == "report     /tmp/[bot]/[/x]/:x:/runs/r/report.html\n"


def test_reasons_and_places_are_said_as_they_are(capsys: pytest.CaptureFixture[str]):
    refused = printed(Refusal(reasons=("column [bot] is [/x]", "and :x:")), capsys)
    assert refused == "not published: column [bot] is [/x]; and :x:\n"
    version = ModelVersion(
        name="m", version=1, registry="/r/[bot]/[/x]", manifest="f" * 64, logit_difference=0.0, created=True
    )
    assert printed(version, capsys).splitlines() == [
        "published  m@1 in /r/[bot]/[/x]",
        "pull it    reglage registry pull m@1 m --registry /r/[bot]/[/x]",
    ]
