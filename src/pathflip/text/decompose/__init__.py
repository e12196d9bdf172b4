"""Reports to sub-captions, by rules, by a language-model server the user names, or by a model in a local folder.

``identifiers`` guards what leaves the machine, ``replies`` reads what a model answers, ``support`` checks it against
the report, ``server`` and ``local`` ask, ``cache`` remembers, ``job`` joins them. The prompt is ``prompt.txt``.
"""

from pathflip.text.decompose.identifiers import find_identifiers, redact
from pathflip.text.decompose.job import Decomposed, DecomposeSpec, decompose_reports, read_reports, write_decomposed
from pathflip.text.decompose.local import LocalSpec
from pathflip.text.decompose.server import ServerSpec
from pathflip.text.decompose.support import Source

__all__ = [
    "DecomposeSpec",
    "Decomposed",
    "LocalSpec",
    "ServerSpec",
    "Source",
    "decompose_reports",
    "find_identifiers",
    "read_reports",
    "redact",
    "write_decomposed",
]
