"""Run a benchmark, and leave its result whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pathflip.benchmarks.comparison import compared_with, record_of, write_record
from pathflip.benchmarks.protocol import Inputs
from pathflip.benchmarks.registry import find_protocol
from pathflip.benchmarks.result import as_result, caution, write_files
from pathflip.benchmarks.result_page import write_page
from pathflip.errors import ConfigError, OutputError
from pathflip.io.files import atomic_directory, check_writable

__all__ = ["run_benchmark"]


def run_benchmark(name: str, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Run a benchmark and write its result: ``result.json``, ``result.html``, ``items.csv``, ``comparison.npz``.

    Args:
        name: of :data:`~pathflip.benchmarks.registry.PROTOCOLS`. inputs: what to run it on. out: a folder; an older
            result in it is replaced in one step, anything else is refused.

    Returns:
        The content of ``result.json`` (docs/formats.md).

    Raises:
        ConfigError: no such benchmark, or inputs that do not belong to it. CaptionError, FeatureError: files that
            cannot be used. OutputError: ``out`` holds something else, or cannot be written.
    """
    protocol = find_protocol(name)
    if not inputs.data.exists():
        raise ConfigError(f"--data '{inputs.data}': no such file; expected {protocol.needs}")
    _check_out(out)
    if inputs.against is not None and not inputs.against.exists():
        raise ConfigError(f"--against '{inputs.against}': no such file or folder; check the path")
    outcome = protocol.run(inputs)
    if inputs.against is not None:
        outcome = compared_with(protocol, inputs, outcome)
    if line := caution(inputs):
        outcome = replace(outcome, notes=(*outcome.notes, line))
    result = as_result(protocol, inputs, outcome)
    with atomic_directory(out) as folder:
        write_files(folder, result, outcome)
        write_record(folder, record_of(result["model"]["name"], protocol.name, inputs, outcome))
        write_page(folder / "result.html", [result])
    return result


def _check_out(out: Path) -> None:
    if out.is_file():
        raise OutputError(f"--out '{out}': is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "result.json").is_file():
        raise OutputError(
            f"--out '{out}': holds files that are no result of a benchmark and would be replaced; choose another folder"
        )
    check_writable(out.absolute().parent)
