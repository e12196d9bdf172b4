"""The training store: features laid out so that a step reads the patches it draws and nothing else."""

from pathflip.data.packed.packed_store import PackedStore, open_store
from pathflip.data.packed.packing import PackOutcome, pack_features

__all__ = ["PackOutcome", "PackedStore", "open_store", "pack_features"]
