"""Reads what was appended to a file since the last time, in whole lines."""

from __future__ import annotations

from pathlib import Path

_CHUNK_BYTES = 1 << 20


class Tail:
    """Follows one file that may not exist yet; a torn last line waits until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """The whole lines that are new, without their line ends."""
        if not self.path.exists():
            return []
        lines: list[str] = []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                lines.append(line.decode(errors="replace").rstrip("\r\n"))
        return lines

    def rest(self) -> str:
        """What follows the last whole line: the end of a file that nobody writes any more."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            return file.read(_CHUNK_BYTES).decode(errors="replace")
