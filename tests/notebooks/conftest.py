"""The notebooks' kernel ends with the tests."""

from collections.abc import Iterator

import pytest
from in_kernels import kernel
from nbclient.util import run_sync


@pytest.fixture(scope="session", autouse=True)
def end_of_the_kernel() -> Iterator[None]:
    yield
    if kernel().has_kernel:
        run_sync(kernel().shutdown_kernel)(now=True)
