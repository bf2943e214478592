"""The review cache: what a judge answered, by the digest of what it was asked.

The oldest rows go when there are more than ``max_rows``. File rules in ``database.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from synth_ray.records.database import Database, Layout

_MAX_ROWS = 100_000

_LAYOUT = Layout(
    kind="review cache",
    application_id=0x5352_4A43,  # "SRJC"
    version=1,
    script="""
CREATE TABLE replies (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, reply TEXT NOT NULL
) STRICT;
""",
)


class ReviewCache:
    """Replies at ``path``; usable from several threads and processes. Raises what ``Database`` raises."""

    def __init__(self, path: Path, max_rows: int = _MAX_ROWS) -> None:
        self._database, self._max_rows = Database(path, _LAYOUT, check=False), max_rows

    def get(self, key: str) -> str | None:
        """The reply kept under ``key``."""
        rows = self._database.rows("SELECT reply FROM replies WHERE key = ?", (key,))
        return str(json.loads(rows[0]["reply"])) if rows else None

    def put(self, key: str, reply: str) -> None:
        """Keeps ``reply``; the first one for a key stays."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO replies (key, reply) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (key, json.dumps(reply))
            )
            connection.execute(
                "DELETE FROM replies WHERE number <= "
                "(SELECT number FROM replies ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._max_rows,),
            )

    def close(self) -> None:
        """Closes the file."""
        self._database.close()
