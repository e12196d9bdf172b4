"""What a separate process is asked to do in a test: nothing heavy is imported here."""

import os
import signal
from pathlib import Path


def dies_of_bad(path: Path) -> str:
    """The stem; a file named "bad" kills this process, as a damaged one can through the HDF5 library."""
    if path.stem == "bad":
        os.kill(os.getpid(), signal.SIGSEGV)
    return path.stem
