"""Shared fixtures, and the check of every annotation of pathflip in this process.

Tests marked ``real`` find their data through PATHFLIP_REAL_DATA or ../shared/data."""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from shape_check import first_calls_jaxtyped, next_test, unchecked

# before anything imports pathflip; every worker of pytest-xdist reads this file. What a test starts in a process of its
# own runs without.
jaxtyping.install_import_hook("pathflip", "shape_check.typechecked")
jaxtyping.jaxtyped = first_calls_jaxtyped  # what the hook decorates with

LONGEST_FIRST = (
    "test_demo", "test_documented_commands", "test_workbench_page", "test_cluster", "test_robustness", "test_instruct",
    "test_models_streaming", "test_features_extract", "test_train_packed", "test_train_loop",
    "test_real_slides", "test_verify", "test_inference", "test_train_distributed", "test_losses_distributed",
)  # fmt: skip
"""Files that take longest. A file is one worker's: begun last, it would leave the others idle for minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of :data:`LONGEST_FIRST` come first, the others as they stand."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every test has the first calls of each function checked."""
    next_test()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and text, or a visible skip."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PATHFLIP_REAL_DATA", beside))
    if not (folder / "slides").is_dir():
        pytest.skip(f"real data absent: set PATHFLIP_REAL_DATA (looked in {folder})")
    return folder


@pytest.fixture
def annotations_off() -> Iterator[None]:
    """For tests with a stand-in, or that pass something wrong to see our own line about it."""
    with unchecked():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)
