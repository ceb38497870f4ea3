"""What holds for every test: no limit of the clock but the one of :mod:`tests.waiting`, and one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from lib_transfer.conversion.group import AdapterRun
from lib_transfer.conversion.report import TransferReport
from tests import tiny
from tests.balance import need_balance
from tests.waiting import HANG

# A slow or busy machine is no failure. A fixture that lasts for all examples of a test is meant where one is used.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End a test that hangs."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(HANG, func_only=True))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    """The tiny checkpoints; no test changes them."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Matrices as small as the tests' gain nothing from threads, and lose much to what else the machine does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _balanced() -> Iterator[None]:
    """Every report that is made in this process, of whatever adapter, accounts for every tensor of the file."""
    made = AdapterRun.report

    def report(run: AdapterRun) -> TransferReport:
        told = made(run)
        need_balance(told)
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdapterRun, "report", report)
        yield
