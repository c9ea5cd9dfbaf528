"""What all tests share: the recipe's root, the real test data, one torch thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import driver  # noqa: F401 (a fixture of the tests that open a page)
from hypothesis import HealthCheck, settings

# The same examples each time, however slow a machine that others use too.
ALLOWED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("sermtl", derandomize=True, deadline=None, suppress_health_check=ALLOWED)
settings.load_profile("sermtl")

ROOT = Path(__file__).resolve().parents[1]
LONGEST = (
    "test_recipe",
    "test_faults",
    "test_recipe_cluster",
    "test_recipe_corpora",
    "test_reproduce_paper",
    "test_planted",
    "test_cluster",
    "test_report_browser",
    "test_report",
    "test_bench",
)
"""Files that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files are shared out among processes, begin with the longest: none is left alone with one at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def recipe() -> Path:
    """The recipe root."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real speech; tests that need it are skipped where SERMTL_TEST_DATA does not name one."""
    folder = os.environ.get("SERMTL_TEST_DATA", "")
    if not folder:
        pytest.skip("SERMTL_TEST_DATA is unset: no real speech to test on")
    if not Path(folder).is_dir():
        pytest.skip(f"SERMTL_TEST_DATA={folder} is no directory")
    return Path(folder)


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep float sums in one order; tests that never import torch do not pay for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
