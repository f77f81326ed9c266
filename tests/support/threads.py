"""Tiny tensors gain nothing from a second thread and lose much on a busy machine.

A folder of such tests imports the fixture into its conftest.py.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
