"""Drive a headless chromium by the DevTools protocol: open pages, press what a person would press, take pictures."""

import base64
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

WIDTH, HEIGHT = 1280, 900


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, count(1)
        self._call("Page.enable")
        self._call("Runtime.enable")
        self.size(WIDTH, HEIGHT)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def size(self, width: int, height: int) -> None:
        """Make the window so large, in CSS pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on: bool) -> None:
        """Say that the person prefers dark pages, or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression is."""
        result = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def text(self) -> str:
        """Return the words that the page shows."""
        return str(self.run("document.body.innerText"))

    def wait(self, condition: str, seconds: float = 60.0) -> Any:
        """Wait until a JavaScript expression is true; return what it is. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        value = f"const v = {condition}; return v instanceof Node || v"
        asked = f"(() => {{ try {{ {value} }} catch (e) {{ return null }} }})()"
        while time.monotonic() < deadline:
            if found := self.run(asked):
                return found
            time.sleep(0.3)
        raise TimeoutError(f"{condition}; the page says: {self.text()[:2000]}")

    def wait_text(self, words: str, seconds: float = 60.0) -> None:
        """Wait until the page shows these words."""
        self.wait(f"document.body.innerText.includes({json.dumps(words)})", seconds)

    def click(self, words: str, within: str = "button, a, [role=tab], [role=menuitem], [role=option]") -> None:
        """Press the last visible button, link, tab or entry that says just this."""
        find = f"""(scroll => {{
          const fits = [...document.querySelectorAll({json.dumps(within)})].filter(e =>
            (e.innerText || e.ariaLabel || '').trim() === {json.dumps(words)} && e.getClientRects().length);
          if (!fits.length) return null;
          const e = fits[fits.length - 1];
          if (scroll) e.scrollIntoView({{block: 'nearest'}});
          const r = e.getBoundingClientRect();
          return [r.x + r.width / 2, r.y + r.height / 2];
        }})"""
        self.wait(f"{find}(true)")
        time.sleep(0.5)  # the page may still move
        self.press(*self.wait(f"{find}(false)"))

    def press(self, x: float, y: float) -> None:
        """Press the mouse at a place."""
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put text into a field, in place of what is there."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self._call("Input.insertText", text=text)

    def picture(self, path: Path, *, colours: int = 200) -> None:
        """Write what the window shows as PNG, of few colours, which is a quarter of the bytes."""
        import io

        from PIL import Image

        shot = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(shot)).convert("RGB")
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


@contextmanager
def chromium(home: Path, program: str = "chromium") -> Generator[Page]:
    """Give a tab of a browser that keeps its files below `home` and ends with the block."""
    port = free_port()
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--remote-debugging-port={port}"]
    browser = subprocess.Popen(
        [program, *words, f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_tab(port), max_size=None, ping_interval=None) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(20)


def _tab(port: int) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
                return str(tabs[0]["webSocketDebuggerUrl"])
        except (OSError, IndexError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
