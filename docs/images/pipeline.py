"""Draw docs/images/pipeline.svg: what a recipe goes through. `python docs/images/pipeline.py`."""

from pathlib import Path

WIDTH, HEIGHT = 1100, 296
BOX_WIDTH, BOX_HEIGHT, TOP = 112, 62, 84

STAGES = [
    ("ingest", "files to rows", "data"),
    ("preprocess", "rows to tokens", "data"),
    ("train", "phase by phase", "weights"),
    ("interpolate", "theta0 to theta1", "weights"),
    ("evaluate", "with intervals", "numbers"),
    ("select", "by your rule", "numbers"),
    ("report", "one page", "numbers"),
    ("register", "behind a gate", "version"),
]
COLOURS = {
    "data": ("#e6f0fa", "#2a6aa8"),
    "weights": ("#fdeedd", "#b8651b"),
    "numbers": ("#e9f5e9", "#3b7d3b"),
    "version": ("#f1e8f8", "#74419c"),
}
STYLE = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif'"


def text(x: float, y: float, words: str, size: int = 13, colour: str = "#666", more: str = "") -> str:
    """Return a line of text, centred at x."""
    return f"<text x='{x:g}' y='{y:g}' font-size='{size}' fill='{colour}' text-anchor='middle' {more}>{words}</text>"


def arrow(points: str, colour: str = "#666") -> str:
    """Return a line with a head at its end."""
    return f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.6' marker-end='url(#head)'/>"


def picture() -> str:
    """Return the whole SVG."""
    gap = (WIDTH - 40 - len(STAGES) * BOX_WIDTH) / (len(STAGES) - 1)
    middle = TOP + BOX_HEIGHT / 2
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' {STYLE}>",
        "<title>From rows to a published version, and round again</title>",
        "<defs><marker id='head' markerWidth='9' markerHeight='8' refX='7' refY='4' orient='auto'>"
        "<path d='M0,0 L8,4 L0,8 z' fill='#666'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' rx='10' fill='#ffffff' stroke='#dddddd'/>",
        text(WIDTH / 2, 34, "reglage run recipe.yaml", 17, "#111", "font-weight='600' font-family='monospace'"),
        text(
            WIDTH / 2,
            56,
            "each stage leaves a record under its fingerprint: what is done is not done again",
            13,
            "#666",
        ),
    ]
    centres: list[float] = []
    for i, (name, words, colour) in enumerate(STAGES):
        x = 20 + i * (BOX_WIDTH + gap)
        centres.append(x + BOX_WIDTH / 2)
        fill, line = COLOURS[colour]
        size = f"width='{BOX_WIDTH}' height='{BOX_HEIGHT}'"
        box = f"<rect x='{x:g}' y='{TOP}' {size} rx='8' fill='{fill}' stroke='{line}'/>"
        parts += [box, text(centres[-1], TOP + 27, name, 14, line, "font-weight='600'")]
        parts.append(text(centres[-1], TOP + 46, words, 12, "#444"))
        if i:
            parts.append(arrow(f"{x - gap + 2:g},{middle} {x - 2:g},{middle}"))
    low, shelf = TOP + BOX_HEIGHT, 236
    last, first = centres[-1], centres[0]
    between = (first + last - 178) / 2
    parts += [
        f"<rect x='{last - 176:g}' y='{shelf - 32}' width='232' height='64' rx='8' fill='#f7f2fb' stroke='#74419c'/>",
        text(last - 60, shelf - 9, "registry: name@1, name@2", 14, "#74419c", "font-weight='600'"),
        text(last - 60, shelf + 12, "champion: what is in service", 12, "#444"),
        arrow(f"{last:g},{low + 2} {last:g},{shelf - 34}"),
        arrow(f"{last - 178:g},{shelf} {first:g},{shelf} {first:g},{low + 4}"),
        text(
            (first + last - 178) / 2, shelf - 12, "reglage retrain recipe.yaml", 15, "#111", "font-family='monospace'"
        ),
        text(
            between,
            shelf + 20,
            "fresh rows, drift or age start it; the challenger replaces the champion only if a paired test allows it",
            13,
            "#666",
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture())
