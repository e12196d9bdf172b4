"""Every public name of every package can be had: packages hand out names on demand, from files named by a text."""

import importlib
from pathlib import Path

import pytest

import pathflip

SOURCE = Path(pathflip.__file__).parent
PACKAGES = [
    ".".join(("pathflip", *file.parent.relative_to(SOURCE).parts)) for file in sorted(SOURCE.rglob("__init__.py"))
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_a_package_lists_is_there(package):
    module = importlib.import_module(package)
    missing = [name for name in getattr(module, "__all__", ()) if getattr(module, name, None) is None]
    assert not missing


def test_few_file_names_stand_twice():
    names = [file.name for file in SOURCE.rglob("*.py") if file.name != "__init__.py"]
    assert sum(names.count(name) > 1 for name in set(names)) <= 5


def test_no_file_is_long_but_tables_of_data():
    tables = {"phrases.py", "swatches.py"}
    long = {file.name for file in SOURCE.rglob("*.py") if len(file.read_text(encoding="utf-8").splitlines()) > 450}
    assert long <= tables
