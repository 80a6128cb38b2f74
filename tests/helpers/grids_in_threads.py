"""Grids without processes. Not beside the tiny grid, which the GPU check reads without pytest."""

from concurrent.futures import ThreadPoolExecutor

import pytest


def run_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let grids run in threads of this process: each process of their own would import everything, for seconds."""

    class Threads(ThreadPoolExecutor):
        def __init__(self, number: int, **_: object) -> None:
            super().__init__(number)

    monkeypatch.setattr("clvq_hf.comparison.run.ProcessPoolExecutor", Threads)
