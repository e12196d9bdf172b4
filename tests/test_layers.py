"""The architecture, checked from the code's own imports: a module imports only from layers below its own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "pathflip"

LAYERS = [
    {"errors", "arguments", "processes", "geometry", "io", "types"},
    {"slide", "text", "losses"},
    {"features", "models", "simulate"},
    {"data", "checkpoint", "plots", "interop"},
    {"inference", "published"},
    {"assistant", "verify", "archive"},
    {"evaluate"},
    {"train"},
    {"recipes"},
    {"benchmarks"},
    {"demo", "workbench"},
    {"cli"},
]
"""Bottom to top. The first layer is ordered within itself."""

FIRST = ["errors", "arguments", "processes", "geometry", "io", "types"]
NO_TORCH = {"slide", "errors", "arguments", "processes", "geometry", "io", "cli"}


def unit_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, at module level?) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, node.lineno, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"pathflip.{a.name}" for a in node.names] if node.module == "pathflip" else [node.module]
            imports += [(name, node.lineno, id(node) in top) for name in names]
    return imports


def level(unit: str) -> int:
    return next((i for i, units in enumerate(LAYERS) if unit in units), -1)


def violations(source: Path) -> list[str]:
    """Every import that goes up or sideways, with its place."""
    lines = []
    for path in sorted(source.rglob("*.py")):
        unit = path.relative_to(source).parts[0].removesuffix(".py")
        if unit == "__init__":
            continue
        if level(unit) < 0:
            lines.append(f"{path.name}: '{unit}' stands on no layer; add it to LAYERS")
        for module, line, _ in imports_of(path):
            if not module.startswith("pathflip."):
                continue
            other = unit_of(module)
            below = level(other) < level(unit) or other == unit
            if level(unit) == level(other) == 0 and other != unit:
                below = FIRST.index(other) < FIRST.index(unit)
            if not below:
                lines.append(f"{path.relative_to(source)}:{line}: {unit} imports {other}")
    return lines


def test_modules_import_only_from_layers_below():
    assert violations(SOURCE) == []


def test_no_test_imports_from_another_test():
    """What two tests need stands in a module of its own: a test can be run, moved and deleted alone."""
    tests = Path(__file__).parent
    imports = {
        (path.name, module)
        for path in sorted(tests.glob("*.py"))
        for module, _, _ in imports_of(path)
        if module.split(".")[0].startswith("test_")
    }
    assert imports == set()


def test_the_layer_test_sees_a_planted_violation(tmp_path):
    (tmp_path / "losses.py").write_text("from pathflip.models.pathflip import PathFLIP\n")
    (tmp_path / "geometry.py").write_text("from pathflip import types\n")
    (tmp_path / "stray.py").write_text("")
    assert len(violations(tmp_path)) == 3


def test_slides_and_geometry_know_no_torch():
    for path in sorted(SOURCE.rglob("*.py")):
        unit = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if unit in NO_TORCH and unit != "types":
            bad = [(m, line) for m, line, top in imports_of(path) if m.split(".")[0] == "torch"]
            assert not bad, f"{path}: {bad}"


@pytest.mark.parametrize("command", ["import pathflip", "import pathflip.cli", "from pathflip import split_sentences"])
def test_starting_up_does_not_pay_for_torch(command):
    probe = f"import sys; {command}; print([m for m in ('torch', 'cv2', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PUBLIC = [
    "Box",
    "Caption",
    "Heatmap",
    "PathFLIP",
    "PathFLIPError",
    "SlideFeatures",
    "SlideInfo",
    "SubCaption",
    "TileGrid",
    "TileSpec",
    "__version__",
    "ask",
    "embed_slide",
    "encode_slide",
    "encode_text",
    "extract",
    "find_tissue",
    "ground",
    "group_regions",
    "load",
    "load_assistant",
    "load_encoder",
    "open_slide",
    "read_captions",
    "read_features",
    "retrieve",
    "split_sentences",
    "tile_slide",
    "train_align",
    "verify_report",
    "view",
    "write_features",
    "zero_shot",
]
"""What people import. A name that goes, or comes, is a change of the interface: write it here too."""


def test_the_public_names_are_those_written_here_and_exist():
    import pathflip

    assert sorted(pathflip.__all__) == sorted(PUBLIC)
    assert dir(pathflip) == sorted(pathflip.__all__)
    for name in pathflip.__all__:
        assert getattr(pathflip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pathflip.nonsense


# --- The listings ----------------------------------------------------------------------------------------------------

_ROOT = Path(__file__).parents[1]
_PAGES = ("README.md", "docs/architecture.md")


def _listing(page: str) -> str:
    """The block that draws ``src/pathflip/``, on the page."""
    blocks = re.findall(r"```text\n(.*?)```", (_ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [one for one in blocks if one.startswith("src/pathflip/\n")]
    return block.partition("\ndocs/")[0]


@pytest.mark.parametrize("page", _PAGES)
def test_the_listing_names_what_stands_at_the_top_of_the_package(page):
    """A folder or module that comes, goes or is renamed needs its line on both pages."""
    drawn = re.findall(r"(?m)(?:^  |(?<=\s{2}))(\w+\.py|\w+/)(?=\s{2,})", _listing(page))
    there = {
        path.name + "/" * path.is_dir()
        for path in (_ROOT / "src" / "pathflip").iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").is_file()
    }
    assert set(drawn) - {"__init__.py"} == there
    assert len(drawn) == len(set(drawn))


def test_the_readme_lists_every_page_of_the_docs():
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"(?m)^docs/ {2,}((?:.*\n)(?: {2,}.*\n)*)", text)
    assert set(re.findall(r"[\w-]+", listed)) == {page.stem for page in (_ROOT / "docs").glob("*.md")}


def test_where_a_new_thing_goes_names_places_that_exist():
    """The table of docs/architecture.md; its paths are below src/pathflip, or from the top of the project."""
    text = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| a new … |")[2].partition("\n\n")[0]
    places = re.findall(r"`([\w/]+(?:/|\.py))`", table)
    assert {"encoder", "report format", "metric", "benchmark"} <= set(re.findall(r"(?m)^\| ([\w ]+?) \|", table))
    for place in places:
        assert (_ROOT / "src" / "pathflip" / place).exists() or (_ROOT / place).exists(), place
