"""The benchmarks, in the order they are listed."""

import difflib

from pathflip.benchmarks import (
    cptac_mutation,
    multipathqa,
    patient_retrieval,
    phrase_places,
    quilt_retrieval,
    reg2025,
    slidebench_bcnb,
    slidebench_captioning,
    slidebench_retrieval,
    slidebench_vqa,
    subtyping,
)
from pathflip.benchmarks.protocol import Protocol
from pathflip.errors import ConfigError

__all__ = ["PROTOCOLS", "find_protocol"]

PROTOCOLS: dict[str, Protocol] = {
    one.name: one
    for one in (
        slidebench_vqa.PROTOCOL,
        slidebench_bcnb.PROTOCOL,
        slidebench_captioning.PROTOCOL,
        slidebench_retrieval.PROTOCOL,
        quilt_retrieval.PROTOCOL,
        cptac_mutation.ZERO_SHOT,
        cptac_mutation.SUPERVISED,
        *subtyping.PROTOCOLS,
        multipathqa.PROTOCOL,
        reg2025.PROTOCOL,
        phrase_places.BOXES,
        phrase_places.MASKS,
        patient_retrieval.PROTOCOL,
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
