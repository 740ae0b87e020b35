"""What a team writes in an afternoon: `python -m benchmarks.serving_plain FOLDER PORT THREADS threads|loop`.

transformers' pipeline behind FastAPI, called in FastAPI's threads (a `def`) or in its event loop (an `async def`). It
cleans no text, follows no alias, keeps no log and asks for no token. It gives every label's probability, and cuts texts
as the version's recipe does.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Body(BaseModel):
    """What is asked."""

    inputs: list[str]


def main(folder: str, port: int, threads: int, where: str) -> None:
    """Answer by a pipeline until the process is ended: called in FastAPI's `threads`, or in its event loop."""
    torch.set_num_threads(threads)
    ask: Any = pipeline("text-classification", model=folder, top_k=None)
    app = FastAPI()

    def answered(body: Body) -> dict[str, Any]:
        return {"predictions": ask(body.inputs, truncation=True, max_length=32, batch_size=32)}

    if where == "threads":

        @app.post("/predict")
        def predict(body: Body) -> dict[str, Any]:
            return answered(body)

    else:

        @app.post("/predict")
        async def predict(body: Body) -> dict[str, Any]:
            return answered(body)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
