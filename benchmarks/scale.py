"""How time, money and memory grow from 1 to 1,000 GPUs and from 10^4 to 10^9 rows, by arithmetic on measured constants.

    python -m benchmarks.scale                 # the tables
    python -m benchmarks.scale --write         # and into docs/scale.md, with its picture
    python -m benchmarks.scale --set gpu_hour=2.5 --set upload=4e8      # with constants of your own

Nothing is run. Every constant says where it comes from: measured here, a vendor's figure, or assumed. The model is
Llama-3.1 8B, all of it trained; the small one is MiniLM, with a classification head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
PICTURE = PAGE.parent / "images" / "scale.png"
GPUS = (1, 8, 64, 256, 1000)
ROWS = (10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
A_NODE = 8
"""GPUs of a node."""


class Constant(NamedTuple):
    """A number, with where it comes from."""

    value: float
    unit: str
    origin: str
    """measured, vendor, code, or assumed."""
    source: str


HERE = "benchmarks.md"
CONSTANTS = {
    # Computing
    "peak": Constant(989e12, "FLOP/s of a GPU", "vendor", "H100 and H200 SXM, dense bf16: NVIDIA's data sheet"),
    "mfu": Constant(0.325, "of the peak", "vendor", "torchtitan, 8B on 8 H100, Dec 2024: 6,667 tokens/s"),
    "mfu_ours": Constant(0.111, "of the peak", "measured", f"1 B, one H200, not packed, 2026-11-27: {HERE}"),
    "nvlink": Constant(450e9, "B/s of a GPU", "vendor", "within a node, each way: NVIDIA's data sheet"),
    "network": Constant(50e9, "B/s of a GPU", "vendor", "between nodes: 3,200 Gbit/s for eight"),
    "reached": Constant(0.7, "of either", "assumed", "what collectives get of it"),
    "gpu_memory": Constant(80e9, "B", "vendor", "H100 SXM: NVIDIA's data sheet"),
    "batch": Constant(1024, "rows of 4,096 tokens a step", "assumed", "a recipe's choice; 4.2 million tokens"),
    "micro": Constant(4, "rows a GPU at a time", "assumed", "a recipe's choice; torchtitan's 2 of 8,192 tokens"),
    # Rows
    "row": Constant(300, "B of a row", "assumed", "as the benchmarks' rows, which have 311"),
    "row_tokens": Constant(75, "tokens of a row", "assumed", "four bytes a token"),
    "ingest": Constant(76e3, "rows/s of a core", "measured", f"an EPYC, with a schema, 2026-11-21: {HERE}"),
    "preprocess": Constant(5e3, "rows/s of a core", "measured", "the same: preprocess-reference.md"),
    "near": Constant(23e3, "rows/s of a core", "measured", "a tenth are near: preprocess-reference.md"),
    "row_memory": Constant(10, "B of a row", "code", "with a key and near copies looked for: many-rows.md"),
    "cores": Constant(20, "cores beside a GPU", "assumed", "160 of a node's 192 for eight: kubernetes.md"),
    "process": Constant(16e9, "B of the process of a run", "assumed", "its limit in kubernetes.md; yours to raise"),
    # The bucket
    "download": Constant(470e6, "B/s of a process", "measured", f"sha256 included, Ceph, 2026-11-21: {HERE}"),
    "upload": Constant(220e6, "B/s of a process", "measured", f"the same: {HERE}"),
    "node_network": Constant(12.5e9, "B/s of a node", "vendor", "100 Gbit/s beside the GPUs' own network"),
    "gets": Constant(5500, "GET a second and prefix", "vendor", "Amazon S3's user guide"),
    "puts": Constant(3500, "PUT a second and prefix", "vendor", "the same"),
    "part_up": Constant(8 * 2**20, "B of a PUT", "code", "ftlib/storage/s3.py"),
    "part_down": Constant(32 * 2**20, "B of a GET", "code", "ftlib/storage/s3.py"),
    "list": Constant(0.0004, "s of a listed file", "measured", f"10,000 of a bucket in 4.1 s: {HERE}"),
    "files": Constant(1e6, "rows of a file", "assumed", "what writes rows decides"),
    # Fixed costs
    "overhead": Constant(24.1, "s of a fresh run", "measured", f"15.1 s of it are Ray's start: {HERE}"),
    "restart": Constant(8.8, "s", "measured", "a killed rank, two on one machine, 2026-11-20"),
    "checkpoint_every": Constant(600, "s", "assumed", "a recipe's choice"),
    "mttf": Constant(7.9 * 3600 * 1024, "s of a GPU", "vendor", "7.9 h at 1,024: clockwork.io, of Meta's Llama 3"),
    "run_events": Constant(170e3, "B of a run in Prefect's database", "measured", "deploy.md"),
    "commit": Constant(4800, "B of a version, nothing changed", "measured", f"registry_delta: {HERE}"),
}
PRICES = {
    "gpu_hour": Constant(4.0, "$ of a GPU and hour", "assumed", "an H100 with its share of a node; no offer"),
    "stored": Constant(0.023, "$ of a GB and month", "vendor", "S3 Standard, us-east-1, as listed"),
    "put": Constant(5e-6, "$ of a PUT or LIST", "vendor", "the same"),
    "get": Constant(4e-7, "$ of a GET", "vendor", "the same"),
}
PRICED = "2026-11-28"
"""When the prices were written; they are an example."""


class Model(NamedTuple):
    """What is trained, all of it."""

    name: str
    parameters: float
    """But for the embeddings, with which no token is multiplied."""
    layers: int
    working: float
    """Bytes of activations and buffers beside the weights' own; `reglage plan` counts them."""
    mfu: str
    """The constant that says which share of the peak it reaches."""

    @property
    def state(self) -> float:
        """Return the bytes of a checkpoint: fp32 weights and two moments."""
        return 12 * self.parameters


LARGE = Model("8B", 8.03e9, 32, 20e9, "mfu")
SMALL = Model("MiniLM", 10.7e6, 6, 1e9, "mfu_ours")


class Scale:
    """The arithmetic, by constants that may be one's own."""

    def __init__(self, own: Mapping[str, float] | None = None) -> None:
        known = {**CONSTANTS, **PRICES}
        if unknown := {*(own or {})} - {*known}:
            raise KeyError(f"{', '.join(sorted(unknown))}: no such constant; there are {', '.join(known)}")
        self.of = {name: one.value for name, one in known.items()} | dict(own or {})

    # ---- one step of N GPUs

    def computing(self, model: Model, gpus: int, mfu: str = "") -> float:
        """Return the seconds that a step computes: 6 FLOPs a parameter and token (Kaplan et al. 2020)."""
        rows = math.ceil(self.of["batch"] / gpus)  # a GPU has whole rows, and the others wait for the one that has most
        return 6 * model.parameters * rows * 4096 / (self.of["peak"] * self.of[mfu or model.mfu])

    def micro_batches(self, gpus: int) -> int:
        """Return how often a step goes there and back."""
        return math.ceil(self.of["batch"] / gpus / self.of["micro"])

    def exchanging(self, model: Model, gpus: int) -> float:
        """Return the seconds that a step's collectives take by themselves, fully sharded.

        Weights are gathered in bf16 for the way there and the way back of every micro-batch, gradients scattered in
        fp32 with the last one (`ftlib.training.group`): so many bytes through every GPU's own link, but for the share
        that it has (Rajbhandari et al. 2020).
        """
        link = self.of["nvlink" if gpus <= A_NODE else "network"] * self.of["reached"]
        return (self.micro_batches(gpus) * 2 * 2 + 4) * model.parameters * (1 - 1 / gpus) / link

    def step(self, model: Model, gpus: int, mfu: str = "") -> float:
        """Return a step's seconds where the exchange goes on beside the computation: the longer of the two."""
        return max(self.computing(model, gpus, mfu), self.exchanging(model, gpus))

    def rate(self, model: Model, gpus: int, mfu: str = "") -> float:
        """Return tokens/s of all GPUs."""
        return self.of["batch"] * 4096 / self.step(model, gpus, mfu)

    def memory(self, model: Model, gpus: int) -> float:
        """Return the bytes of a GPU.

        Weights, moments and gradients in fp32, sharded; gradients of the micro-batches before the last one, whole; two
        gathered layers in bf16; and what works.
        """
        waiting = 4 * model.parameters if self.micro_batches(gpus) > 1 and gpus > 1 else 0
        return 16 * model.parameters / gpus + waiting + 2 * 2 * model.parameters / model.layers + model.working

    # ---- what a training has to do with the bucket

    def saving(self, model: Model, gpus: int) -> float:
        """Return the seconds until a checkpoint is whole in the bucket: every rank uploads its own shard."""
        nodes, ranks = math.ceil(gpus / A_NODE), min(gpus, A_NODE)
        of_node = model.state / nodes / min(ranks * self.of["upload"], self.of["node_network"])
        return max(of_node, model.state / self.of["part_up"] / self.of["puts"])

    def filling(self, size: float, gpus: int) -> float:
        """Return the seconds until every node's cache has `size` bytes: one process fetches, the others wait for it."""
        return self._downloading(size, 1, gpus)

    def _downloading(self, size: float, processes: int, gpus: int) -> float:
        """Return the seconds until each node has `size` bytes from the bucket, by so many of its processes.

        The bucket answers so many requests a second for each prefix.
        """
        of_node = size / min(processes * self.of["download"], self.of["node_network"])
        return max(of_node, math.ceil(gpus / A_NODE) * size / self.of["part_down"] / self.of["gets"])

    def publishing(self, model: Model) -> float:
        """Return the seconds to upload a bf16 version and to read it back, in one process."""
        return 2 * model.parameters * (1 / self.of["upload"] + 1 / self.of["download"])

    def resuming(self, model: Model, gpus: int) -> float:
        """Return the seconds from a killed node to the next step: a restart, and every rank's shard from the bucket."""
        nodes = math.ceil(gpus / A_NODE)
        return self.of["restart"] + self._downloading(model.state / nodes, min(gpus, A_NODE), gpus)

    def lost(self, model: Model, gpus: int) -> float:
        """Return the share of time that failures take: half an interval of checkpoints, and what resuming takes."""
        return (self.of["checkpoint_every"] / 2 + self.resuming(model, gpus)) / (self.of["mttf"] / gpus)

    def training(self, model: Model, gpus: int, rows: float, mfu: str = "") -> float:
        """Return the seconds of one epoch, failures included."""
        tokens = rows * self.of["row_tokens"]
        return tokens / self.rate(model, gpus, mfu) * (1 + self.lost(model, gpus))

    # ---- rows

    def ingesting(self, rows: float, cores: float) -> float:
        """Return the seconds to read, place and check rows."""
        return rows / self.of["ingest"] / cores

    def preprocessing(self, rows: float, cores: float) -> float:
        """Return the seconds to clean, find near copies and tokenise."""
        return rows * (1 / self.of["preprocess"] + 1 / self.of["near"]) / cores

    def held(self, rows: float) -> float:
        """Return the bytes that one process holds while it places rows."""
        return rows * self.of["row_memory"]

    def prepared(self, rows: float) -> float:
        """Return the bytes of prepared rows: four a token, and an index of eight a row."""
        return rows * (4 * self.of["row_tokens"] + 8)

    def listing(self, rows: float) -> float:
        """Return the seconds that a retraining takes to see that nothing is new."""
        return math.ceil(rows / self.of["files"]) * self.of["list"]


def first_of_gpus(scale: Scale, gpus: int) -> str:
    """Name what bounds an 8B training first on so many GPUs."""
    computing, exchanging = scale.computing(LARGE, gpus), scale.exchanging(LARGE, gpus)
    if scale.memory(LARGE, gpus) > scale.of["gpu_memory"]:
        return "GPU memory"
    if scale.saving(LARGE, gpus) > scale.of["checkpoint_every"]:
        return "uploading checkpoints"
    if exchanging > computing:
        return "gathering weights"
    return "GPUs, gathering weights next" if exchanging > 0.5 * computing else "GPUs"


class Case(NamedTuple):
    """A model on GPUs, with its rows on cores."""

    model: Model
    gpus: int
    cores: int

    @property
    def words(self) -> str:
        """Write it for a table's head."""
        return (
            f"{self.model.name}, {self.gpus:,} GPU{'s' * (self.gpus > 1)}, {self.cores:,} core{'s' * (self.cores > 1)}"
        )


CASES = (Case(SMALL, 1, 1), Case(SMALL, 1, 20), Case(LARGE, 64, 1), Case(LARGE, 1000, 20000))
"""One core is `compute.data_workers: 0`."""


def parts_of(scale: Scale, case: Case, rows: int) -> dict[str, float]:
    """Return the seconds of each part of a run of one epoch, from nothing to a version."""
    return {
        "starting": scale.of["overhead"],
        "listing files": scale.listing(rows),
        "reading rows": scale.ingesting(rows, case.cores),
        "preparing rows": scale.preprocessing(rows, case.cores),
        "filling caches": scale.filling(scale.prepared(rows) + 2 * case.model.parameters, case.gpus),
        "GPUs": scale.training(case.model, case.gpus, rows),
        "publishing": scale.publishing(case.model),
    }


def dollars_of(scale: Scale, case: Case, rows: int) -> dict[str, float]:
    """Return what a run costs, by what is paid for; GPUs are held from its start to its end."""
    of, parts = scale.of, parts_of(scale, case, rows)
    hour = case.gpus * of["gpu_hour"] / 3600
    checkpoints = max(1, parts["GPUs"] / of["checkpoint_every"])
    model, prepared, nodes = case.model, scale.prepared(rows), math.ceil(case.gpus / A_NODE)
    puts = (prepared + checkpoints * model.state + 2 * model.parameters) / of["part_up"]
    gets = (of["row"] * rows + nodes * (prepared + 2 * model.parameters)) / of["part_down"]
    stored = of["row"] * rows + prepared + 2 * model.state + 2 * model.parameters
    return {
        "GPUs that compute": parts["GPUs"] * hour,
        "GPUs that wait": (sum(parts.values()) - parts["GPUs"]) * hour,
        "requests": puts * of["put"] + gets * of["get"],
        "a month's storage": stored / 1e9 * of["stored"],
    }


def first_of_rows(scale: Scale, case: Case, rows: int) -> str:
    """Name a run's first bottleneck: memory, where one process cannot hold its rows, else the longest part."""
    if case.cores == 1 and scale.held(rows) > scale.of["process"]:
        return "memory of one process"
    parts = parts_of(scale, case, rows)
    return max(parts, key=lambda name: parts[name])


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def tables(scale: Scale) -> dict[str, Table]:
    """Return the page's tables by name: heads and rows of text."""
    return {
        "gpus": _gpus(scale),
        "cases": _cases(scale),
        "rows": _rows(scale),
        "memory": _memory(scale),
        "money": _money(scale),
        "requests": _requests(scale),
        "runs": _runs(scale),
        "constants": _constants(scale),
    }


def _gpus(scale: Scale) -> Table:
    heads = ("GPUs", "GB", "computes s", "exchanges s", "tokens/s", "hours", "at our MFU", "saved s", "lost",
             "first bottleneck")  # fmt: skip
    made: list[list[str]] = []
    for gpus in GPUS:
        fits = scale.memory(LARGE, gpus) <= scale.of["gpu_memory"]
        hours = [scale.training(LARGE, gpus, 10**8, mfu) / 3600 for mfu in ("mfu", "mfu_ours")]  # 7.5 billion tokens
        timed = [
            f"{scale.computing(LARGE, gpus):,.1f}",
            f"{scale.exchanging(LARGE, gpus):,.1f}",
            number(scale.rate(LARGE, gpus)),
            *(number(one) for one in hours),
            number(scale.saving(LARGE, gpus)),
            f"{scale.lost(LARGE, gpus):.1%}".replace("%", " %"),
        ]
        cells = timed if fits else ["-"] * len(timed)
        made.append([f"{gpus:,}", f"{scale.memory(LARGE, gpus) / 1e9:,.0f}", *cells, first_of_gpus(scale, gpus)])
    return heads, made


def _rows(scale: Scale) -> Table:
    heads = ["rows", *(word for name in "ABCD" for word in (name, "first"))]
    made: list[list[str]] = []
    for rows in ROWS:
        cells = [power(rows)]
        for case in CASES:
            cells += [duration(sum(parts_of(scale, case, rows).values())), first_of_rows(scale, case, rows)]
        made.append(cells)
    return heads, made


def _memory(scale: Scale) -> Table:
    heads = ("rows", "raw", "prepared", "held by one process", "a node's cache full after", "125 nodes' after")
    made: list[list[str]] = []
    for rows in ROWS:
        size = scale.prepared(rows) + 2 * LARGE.parameters
        made.append(
            [
                power(rows),
                amount(scale.of["row"] * rows),
                amount(scale.prepared(rows)),
                amount(scale.held(rows)),
                duration(scale.filling(size, A_NODE)),
                duration(scale.filling(size, 1000)),
            ]
        )
    return heads, made


def _money(scale: Scale) -> Table:
    names = tuple(dollars_of(scale, CASES[0], 1))
    made: list[list[str]] = []
    for letter, case in zip("ABCD", CASES, strict=True):
        for rows in (10**4, 10**6, 10**8, 10**9):
            cost = dollars_of(scale, case, rows)
            made.append([letter, power(rows), *(dollars(cost[name]) for name in names)])
    return ("", "rows", *names), made


def _cases(scale: Scale) -> Table:
    """Name the cases, with what a GPU of each takes and its cores give: whoever is slower is waited for."""
    made: list[list[str]] = []
    for letter, case in zip("ABCD", CASES, strict=True):
        taken = scale.rate(case.model, case.gpus) / scale.of["row_tokens"]
        given = 1 / (scale.preprocessing(1, case.cores) + scale.ingesting(1, case.cores))
        made.append([letter, case.words, number(taken), number(given)])
    return ("", "model, GPUs, cores", "rows/s that the GPUs take", "rows/s that the cores prepare"), made


def _runs(scale: Scale) -> Table:
    heads = ("runs a day", "one every", "Prefect's database grows a day", "the registry, where nothing changed")
    made: list[list[str]] = []
    for runs in (10, 1000, 10000):
        grown = [amount(runs * scale.of[name]) for name in ("run_events", "commit")]
        made.append([f"{runs:,}", duration(86400 / runs), *grown])
    return heads, made


def _requests(scale: Scale) -> Table:
    heads = ("GPUs", "PUTs", "a second", "of a prefix's", "whole after", "GETs", "a second", "of a prefix's",
             "next step after")  # fmt: skip
    made: list[list[str]] = []
    for gpus in GPUS[1:]:
        puts, gets = LARGE.state / scale.of["part_up"], LARGE.state / scale.of["part_down"]
        up = puts / scale.saving(LARGE, gpus)
        down = gets / (scale.resuming(LARGE, gpus) - scale.of["restart"])
        made.append(
            [
                f"{gpus:,}",
                *(number(puts), number(up), percent(up / scale.of["puts"]), duration(scale.saving(LARGE, gpus))),
                *(number(gets), number(down), percent(down / scale.of["gets"]), duration(scale.resuming(LARGE, gpus))),
            ]
        )
    return heads, made


def _constants(scale: Scale) -> Table:
    made = [
        [f"`{name}`", number(scale.of[name]) if scale.of[name] >= 1000 else f"{scale.of[name]:g}", one.unit,
         one.origin, one.source]
        for name, one in {**CONSTANTS, **PRICES}.items()
    ]  # fmt: skip
    return ("name", "value", "unit", "origin", "source"), made


def number(value: float) -> str:
    """Write three digits: 0.42, 12.3, 4,190, 1.2 million, 9.9e14."""
    if value >= 1e12:
        return f"{value:.3g}"
    if value >= 1e6:
        return f"{value / 1e6:,.3g} million" if value < 1e9 else f"{value / 1e9:,.3g} billion"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """Write a share."""
    return f"{share:.0%}".replace("%", " %")


def power(rows: int) -> str:
    """Write a power of ten."""
    return f"10^{round(math.log10(rows))}"


def duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def amount(size: float) -> str:
    """Write bytes in the unit that fits."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= of:
            return f"{size / of:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def dollars(value: float) -> str:
    """Write money."""
    return "below $0.01" if value < 0.01 else f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


def markdown(table: Table) -> str:
    """Write a table as Markdown."""
    heads, rows = table
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_tables(text: str, made: Mapping[str, Table]) -> str:
    """Replace what stands between `<!-- NAME -->` and `<!-- end -->` by the table of that name."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{markdown(made[match[1]])}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def draw(scale: Scale, path: Path) -> None:
    """Draw the seconds of every part over rows, for the three cases."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"font.size": 9})
    from matplotlib import pyplot

    names = ("starting", "preparing rows", "reading rows", "filling caches", "GPUs", "publishing")
    colours = ("#8a8a8a", "#2a6aa8", "#7fb2dd", "#b8651b", "#3b7d3b", "#74419c")
    figure, axes = pyplot.subplots(1, len(CASES), figsize=(12, 3.6), sharey=True)
    every = [10 ** (4 + i / 8) for i in range(41)]
    for axis, case in zip(axes, CASES, strict=True):
        parts = [parts_of(scale, case, round(rows)) for rows in every]
        for name, colour in zip(names, colours, strict=True):
            axis.loglog(every, [part[name] for part in parts], color=colour, label=name, linewidth=1.8)
        axis.set_title(case.words, fontsize=9)
        axis.set_xlabel("rows of 300 bytes")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds of an epoch's run")
    axes[0].set_ylim(0.05, 1e7)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _own(settings: Sequence[str]) -> dict[str, float]:
    own: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            own[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{setting!r}: write name=number") from None
    return own


@click.command(help=__doc__)
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", help="A constant of your own; repeatable.")
@click.option("--write", is_flag=True, help="Write the tables and the picture of docs/scale.md.")
def main(settings: Sequence[str], write: bool) -> None:
    """Print the tables."""
    try:
        scale = Scale(_own(settings))
    except KeyError as error:
        raise click.BadParameter(str(error.args[0])) from None
    made = tables(scale)
    show: Callable[[str], object] = click.echo
    for name, table in made.items():
        show(f"\n{name}\n{markdown(table)}")
    if write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
        draw(scale, PICTURE)


if __name__ == "__main__":
    main()
