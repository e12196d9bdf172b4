"""Every error PathFLIP raises on purpose.

```text
PathFLIPError                 one clear line: what, got, expected, what to do next
├── SlideError                a slide cannot be opened or read
│   ├── MissingMPPError       the file does not say how large a pixel is
│   ├── ResolutionError       the slide is coarser than the resolution asked for
│   └── SlideLostError        the file could be read, and then no longer (share lost, file replaced)
├── FeatureError              a feature file is damaged, foreign, or holds non-finite values
├── CaptionError              captions or reports cannot be used
├── ContractError             a model is asked about features it was not trained on
├── CheckpointError           a checkpoint directory is incomplete or foreign
├── ConfigError               a setting is unknown or out of range
├── OutputError               results cannot be written: disk full, read-only, no permission
├── ServerError               a language-model server cannot be reached, or refuses
├── TrainingError             training stopped rather than write NaN weights
└── MissingExtraError         an optional package is absent; the message holds the install command
```
"""

__all__ = [
    "CaptionError",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "FeatureError",
    "MissingExtraError",
    "MissingMPPError",
    "OutputError",
    "PathFLIPError",
    "ResolutionError",
    "ServerError",
    "SlideError",
    "SlideLostError",
    "TrainingError",
]


class PathFLIPError(Exception):
    """Base of all errors PathFLIP raises on purpose; the message is one line a user can act on."""

    def __str__(self) -> str:
        """One line, also where a library's own message or a file's content in it is several."""
        return " ".join(line.strip() for line in super().__str__().splitlines())


class SlideError(PathFLIPError):
    """A slide cannot be opened or read."""


class MissingMPPError(SlideError):
    """The slide file does not say how many microns a level-0 pixel spans."""


class ResolutionError(SlideError):
    """The slide is coarser than the resolution asked for."""


class SlideLostError(SlideError):
    """A slide could be read, and then no longer: its share went away, or its file was replaced. Try again later."""


class FeatureError(PathFLIPError):
    """A feature file is damaged, foreign, or holds values nothing can be learned from."""


class CaptionError(PathFLIPError):
    """Captions or reports cannot be used as they are."""


class ContractError(PathFLIPError):
    """A model is asked about features of another encoder, width, tile size or resolution."""


class CheckpointError(PathFLIPError):
    """A checkpoint directory is incomplete, damaged or foreign."""


class ConfigError(PathFLIPError):
    """A setting is unknown or out of range."""


class OutputError(PathFLIPError):
    """Results cannot be written: the disk is full, or the folder may not be written to."""


class ServerError(PathFLIPError):
    """A language-model server cannot be reached, or refuses everything it is asked."""


class TrainingError(PathFLIPError):
    """Training stopped rather than write weights nobody should use."""


class MissingExtraError(PathFLIPError):
    """An optional package is absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': install it with  pip install 'pathflip[{extra}]'")
