"""Settings of the environment, and nothing else: no test may need the network or reach a real Prefect server."""

import os

for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
os.environ.pop("PREFECT_API_URL", None)
