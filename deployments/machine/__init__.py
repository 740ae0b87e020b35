"""One machine's installation: Prefect server, worker and TensorBoard, started, watched, found again and stopped.

`supervisor.py` is the process behind `reglage up`. What it knows stands in one private folder below Réglage's home
(`state.py`), and every process it starts carries that folder's name in its environment (`processes.py`): so nothing is
lost when everything is killed, and no other process is ever taken for one of ours.
"""
