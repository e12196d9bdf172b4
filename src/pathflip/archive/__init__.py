"""A searchable archive of slides: their vectors in a table on disk, found by text, slide or region.

Needs the extra ``archive`` (LanceDB, embedded: no server, no network).
"""

from pathflip.archive.indexing import IndexOutcome, index_features, read_facts
from pathflip.archive.search import Hit, Place, Searcher
from pathflip.archive.vector_tables import Archive, open_archive

__all__ = ["Archive", "Hit", "IndexOutcome", "Place", "Searcher", "index_features", "open_archive", "read_facts"]
