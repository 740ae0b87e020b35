"""Merge checkpoints into a new model folder, from Prefect's form or its API; nothing is trained."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.models.merge_folders import given_options, kernel_of, merge_folders, notes, summary
from flows.one_line_errors import one_line_errors
from flows.pages.run_page import artifact_key, inlined, show_markdown
from ftlib.errors import ModelError
from ftlib.merging.methods import METHODS
from ftlib.models.folder import is_adapter
from ftlib.report.content import Page, Row, Section, Table, texts
from ftlib.report.measured_page import write_page
from ftlib.report.merged_page import distances_section
from ftlib.storage import Place

one_line_errors()


def _run_name() -> str:
    return f"interpolate-{Path(flow_run.parameters['out']).name}"


@flow(name="interpolate", flow_run_name=_run_name)
def interpolate(
    checkpoints: list[str],
    out: str,
    method: Annotated[str, Field(json_schema_extra={"enum": [*METHODS]})] = "lerp",
    alpha: float | None = None,
    scale: float | None = None,
    options: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    as_adapter: bool = False,
    max_shard_mb: int | None = None,
    registry: str = "registry",
    endpoint_url: str | None = None,
) -> State[Any]:
    """Merge model folders or versions into a new folder, streaming, in a few megabytes of memory.

    The folder is made whole or not at all. What it is made of and how far each layer lies from each input is on the
    run's page. Returns a Completed state with the record of the merge.

    Args:
        checkpoints: Versions as name@3, or model folders that the worker sees. The first is the start, the second
            the fine-tune, whose config and tokenizer the result has; more are other fine-tunes of the first. Of graft
            the third is the instruct model, whose config and tokenizer the result has.
        out: The folder to make, which the worker can write, or s3://bucket/folder. It must not hold anything.
        method: How they are merged. Lerp is the straight line between two.
        alpha: Only for lerp and slerp, which need it. 0 is the first checkpoint, 1 the second.
        scale: Only for task_arithmetic, ties, dare and graft, where it is times what training did.
        options: Another number of the method, as name=value, for example density=0.3.
        as_adapter: The second is an adapter of the first. Write it scaled to alpha, not merged weights.
        max_shard_mb: Make new shards of at most this size; the second checkpoint's if empty.
        registry: Where versions are, a folder that the worker sees, or s3://bucket/prefix.
        endpoint_url: The S3 server, if it is not AWS.
    """
    kernel = kernel_of(method, len(checkpoints), {"alpha": alpha, "scale": scale, **given_options(options)})
    place, sections = Place.parse(registry, endpoint_url), list[Section]()
    with TemporaryDirectory() as made:

        def look(folders: Sequence[Path], written: Path) -> None:
            if not any(map(is_adapter, [*folders, written])):
                with suppress(ModelError):  # of other vocabularies: there is no distance
                    sections.append(distances_section(checkpoints, folders, written, Path(made)))

        record = merge_folders(
            checkpoints, out, kernel, place, max_shard_mb=max_shard_mb, as_adapter=as_adapter, look=look
        )
        _show(record, sections, Path(made))
    return Completed(message=summary(record), data=record)


def _show(record: dict[str, Any], sections: Sequence[Section], folder: Path) -> None:
    """Put the page on the run, and its warnings into the log too; plots are in the folder."""
    warnings, remarks = [str(words) for words in record["warnings"]], notes(record)
    for words in warnings:
        get_run_logger().warning(words)
    for words in (*remarks, summary(record)):
        get_run_logger().info(words)
    said = {name: value for name, value in record["merge"].items() if value not in ({}, [], None)}
    facts = {"method": said.pop("kind")}
    facts |= {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in said.items()}
    facts |= {f"checkpoint {chr(ord('A') + i)}": name for i, name in enumerate(record["checkpoints"])}
    facts |= {"digest of the weights": str(record["weights"])[:16]} if "weights" in record else {}
    facts |= {"seconds": f"{record['seconds']:.1f}"}
    made_of = Section(
        "made-of",
        "What it is made of",
        " ".join(f"{words[0].upper()}{words[1:]}." for words in (*warnings, *remarks)),
        tables=[Table(["", "value"], [Row(texts(name.replace("_", " "), value)) for name, value in facts.items()])],
    )
    page = Page(
        Path(record["folder"]).name,
        f"Merged from {', '.join(record['checkpoints'])}.",
        summary(record),
        sections=[made_of, *sections],
    )
    text = inlined(write_page(page, folder))
    show_markdown(artifact_key("interpolation", Path(record["folder"]).name), text, summary(record))
