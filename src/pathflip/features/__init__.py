"""Tiles to vectors: encoders (one table), extraction, and the HDF5 files features live in.

Names are imported on first use: ``pathflip --help`` must not pay for torch.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "ENCODERS": "encoders",
    "FOUNDATION": "foundation",
    "Encoder": "encoders",
    "contract_warning": "foundation",
    "encoder_table": "encoders",
    "worker_device": "devices",
    "load_encoder": "encoders",
    "ExtractOutcome": "extraction",
    "ExtractProgress": "outcomes",
    "extract": "extraction",
    "extract_cohort": "cohort",
    "read_features": "store",
    "write_features": "store",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.features' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.features.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
