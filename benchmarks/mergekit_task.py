"""Run by mergekit's own interpreter: one merge, timed after its imports. Uses nothing of this repository."""

import json
import sys
import threading
import time
from pathlib import Path


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def main() -> None:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    recipe, out, shard, outcome = sys.argv[1:]
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
    before, peak, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_bytes())

    thread = threading.Thread(target=watch, daemon=True)  # a merge that fails must end the process
    thread.start()
    began, cpu = time.monotonic(), time.process_time()
    run_merge(config, out, options=MergeOptions(out_shard_size=int(shard), copy_tokenizer=False, quiet=True))
    found = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    done.set()
    thread.join()
    Path(outcome).write_text(json.dumps({**found, "extra_anonymous_mb": round((peak[0] - before) / 1e6, 1)}))


if __name__ == "__main__":
    main()
