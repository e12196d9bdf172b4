"""Shared fixtures. Tests marked ``real`` find their data through PATHFLIP_REAL_DATA or ../shared/data."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and text, or a visible skip."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PATHFLIP_REAL_DATA", beside))
    if not (folder / "slides").is_dir():
        pytest.skip(f"real data absent: set PATHFLIP_REAL_DATA (looked in {folder})")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)
