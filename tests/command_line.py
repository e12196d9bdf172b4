"""``pathflip …`` in this process, which has loaded everything already: starting Python costs more than most verbs."""

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest

from pathflip.cli import main

__all__ = ["run_here"]


def run_here(*words: str, status: int = 0) -> list[dict]:
    """The JSON lines that a command prints; it must end with ``status``."""
    out, err = StringIO(), StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.object(sys, "argv", ["pathflip", *words, "--json"]),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert ended.value.code in ((0, None) if status == 0 else (status,)), err.getvalue()
    return [json.loads(line) for line in out.getvalue().splitlines()]
