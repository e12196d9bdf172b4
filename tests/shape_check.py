"""The decorator of every pathflip function in the tests: arguments and results are held against their annotations.

A module of its own, because jaxtyping's import hook takes the decorator by its dotted name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO, Self

import jaxtyping
import numpy as np
import typer
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.vale import Is
from numpy.typing import NDArray

OVERRIDES: dict[Any, Any] = {
    NDArray[np.str_]: Annotated[np.ndarray, Is[lambda texts: texts.dtype.kind == "U"]],  # a text dtype has its length
    Self: Any,  # functions are decorated one by one, not with their class
    BinaryIO: Annotated[Any, Is[lambda file: hasattr(file, "read")]],  # BytesIO has no mode
    typer.Context: Any,  # typer hands over the context of the click inside it
}
"""Annotations that beartype alone would get wrong."""

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict(OVERRIDES)))
"""An int passes for a float (the numeric tower), as it does for mypy."""


@contextmanager
def unchecked() -> Iterator[None]:
    """No function looks at its annotations: for a stand-in, or an argument that is wrong on purpose."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
