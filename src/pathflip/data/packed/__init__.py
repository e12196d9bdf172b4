"""The training store: features laid out so that a step reads the patches it draws and nothing else."""

from pathflip.data.packed.packing import PackOutcome, pack_features
from pathflip.data.packed.store import PackedStore, open_store

__all__ = ["PackOutcome", "PackedStore", "open_store", "pack_features"]
