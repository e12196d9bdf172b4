"""The synthetic cohort: cases by a grammar, painted slides, and the truth about both."""

from typing import TYPE_CHECKING, Any

from pathflip.simulate.world import World

if TYPE_CHECKING:
    from pathflip.simulate.painted_cohort import simulate

__all__ = ["World", "simulate"]


def __getattr__(name: str) -> Any:
    if name == "simulate":  # on first use: the command line's start-up must not pay for OpenCV
        from pathflip.simulate.painted_cohort import simulate

        return simulate
    raise AttributeError(f"module 'pathflip.simulate' has no attribute '{name}'")
