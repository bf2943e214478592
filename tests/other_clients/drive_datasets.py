"""Loads JSONL files with `datasets` as users do; prints a line for each: its columns and its rows as JSON.

Arguments: what `load_dataset` is told besides, as a JSON object, and the files.
"""

import json
import sys

from datasets import load_dataset

for file in sys.argv[2:]:
    rows = load_dataset("json", data_files=file, split="train", **json.loads(sys.argv[1]))
    print(json.dumps({"columns": rows.column_names, "rows": list(rows)}))
