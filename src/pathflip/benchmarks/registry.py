"""The benchmarks, in the order they are listed."""

import difflib

from pathflip.benchmarks import (
    slidebench_bcnb,
    slidebench_vqa,
)
from pathflip.benchmarks.protocol import Protocol
from pathflip.errors import ConfigError

__all__ = ["PROTOCOLS", "find_protocol"]

PROTOCOLS: dict[str, Protocol] = {
    one.PROTOCOL.name: one.PROTOCOL
    for one in (
        slidebench_vqa,
        slidebench_bcnb,
    )
}


def find_protocol(name: str) -> Protocol:
    """A benchmark by name.

    Raises:
        ConfigError: there is none; the closest name is offered.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    close = difflib.get_close_matches(name, PROTOCOLS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ConfigError(f"benchmark: got '{name}', expected one of {', '.join(PROTOCOLS)}{hint}")
