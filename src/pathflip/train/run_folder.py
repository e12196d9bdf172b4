"""A run's directory: one training at a time, and the same data when it is gone on with."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError, OutputError, TrainingError
from pathflip.io.locks import only_writer

__all__ = ["digest_of", "only_training_here", "refuse_lost_state", "same_data"]


@contextmanager
def only_training_here(out: Path, main_process: bool = True) -> Iterator[None]:
    """Hold the directory while a training writes into it.

    Raises:
        TrainingError: another training holds it. OutputError: it cannot be written to.
    """
    if not main_process:
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(only_writer(out, "training"))
        except ConfigError as error:
            raise TrainingError(str(error)) from None
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{out}: cannot be written to ({reason}); choose another --out") from None
        yield


def refuse_lost_state(out: Path) -> None:
    """Refuse to begin a run over checkpoints whose training state is gone.

    Raises:
        TrainingError: there are such checkpoints.
    """
    checkpoints = [name for name in ("last", "best") if (out / name).exists()]
    if checkpoints:
        raise TrainingError(
            f"{out} holds the checkpoint '{checkpoints[0]}' but no training state to go on from; it would be replaced: "
            "choose another --out, or move it away"
        )


def digest_of(value: Any) -> str:
    """A short SHA-256 of anything JSON can hold."""
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def same_data(out: Path, stored: Mapping[str, str] | None, data: Mapping[str, str]) -> None:
    """Refuse to go on with other data: the same weights would then read other words, or other slides.

    Args:
        stored: what the run began with. A run of an older version did not say, or not all of it.
        data: a digest for each thing that must not change, by its name.

    Raises:
        TrainingError: the first that changed, by name.
    """
    before = stored or {}
    changed = [name for name, digest in data.items() if before.get(name, digest) != digest]
    if changed:
        raise TrainingError(
            f"resume: the {changed[0]} differ from those that {out} began with; go on with the same files, or choose "
            "another --out to start a new run"
        )
