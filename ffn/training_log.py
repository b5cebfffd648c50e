"""`log.jsonl` of a training run: one JSON object a line, in the order of the steps."""

import json
from collections.abc import Mapping
from pathlib import Path


class TrainingLog:
    """The log up to `done_steps`; what a stopped run wrote beyond its last saved state is dropped.

    Only a process that `writes` touches the file.
    """

    def __init__(self, path: Path, *, done_steps: int, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        self._lines = [line for line in read_log(path) if line["step"] <= done_steps] if writes else []
        if writes:
            self._rewrite()

    @property
    def seconds(self) -> float:
        """How long the run had trained at the last line."""
        return max((line.get("seconds", 0.0) for line in self._lines), default=0.0)

    def lacks(self, step: int) -> bool:
        """Whether the saved step was never logged, as when its validation was cut off."""
        return self._writes and step > 0 and (not self._lines or self._lines[-1]["step"] < step)

    def write(self, line: Mapping[str, float]) -> None:
        """Adds a line at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _rewrite(self) -> None:
        self._path.write_text("".join(json.dumps(line) + "\n" for line in self._lines), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log, none when there is no file; a last line cut off in the middle is left out."""
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
