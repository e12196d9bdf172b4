"""The decorator of every pathflip function in the tests: arguments and results are held against their annotations.

A module of its own, because jaxtyping's import hook takes the decorator by its dotted name.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType, FunctionType
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

CALLS = 20
"""Calls of a function that are checked in each test: what a loop of a thousand steps calls has nothing new after them,
and checking every call took two fifths of the suite's time."""
CALLS_OF_INNER = 2
"""The same for a function inside a function, whose check is compiled anew whenever the outer one runs."""
_calls: Counter[CodeType] = Counter()
_jaxtyped = jaxtyping.jaxtyped


def first_calls_jaxtyped(function: Any = None, *, typechecker: Any = None) -> Any:
    """``jaxtyping.jaxtyped``, whose functions check their first :data:`CALLS` calls of each test."""
    if function is None:
        return partial(first_calls_jaxtyped, typechecker=typechecker)
    if isinstance(function, classmethod | staticmethod):
        return type(function)(first_calls_jaxtyped(function.__func__, typechecker=typechecker))
    if is_dataclass(function) and "__init__" in vars(function):
        function.__init__ = first_calls_jaxtyped(function.__init__, typechecker=typechecker)  # type: ignore[misc]
    if not isinstance(function, FunctionType):
        return function if isinstance(function, type) else _jaxtyped(function, typechecker=typechecker)
    code, checked = function.__code__, None
    most = CALLS_OF_INNER if "<locals>" in function.__qualname__ else CALLS

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checked
        _calls[code] += 1
        if _calls[code] > most:
            return function(*arguments, **named)
        checked = checked or _jaxtyped(function, typechecker=typechecker)
        return checked(*arguments, **named)

    return call


def next_test() -> None:
    """Count the calls anew."""
    _calls.clear()


@contextmanager
def unchecked() -> Iterator[None]:
    """No function looks at its annotations: for a stand-in, or an argument that is wrong on purpose."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
