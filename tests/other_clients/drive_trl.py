"""One step of TRL's SFTTrainer on a JSONL file as it is; prints the loss, and all examples as TRL made them, as JSON.

Arguments: the file, the model's folder, and "assistant" for the loss on assistant messages alone, with the template for
Qwen3 that TRL brings (the built-in model's own does not say which tokens are the assistant's).
"""

import json
import sys
from pathlib import Path
from typing import Any

import trl
from datasets import load_dataset

DATA, MODEL = sys.argv[1:3]
QWEN3 = Path(trl.__file__).parent / "chat_templates" / "qwen3_training.jinja"
ASSISTANT: dict[str, Any] = {"assistant_only_loss": True, "chat_template_path": str(QWEN3)}
config = trl.SFTConfig(
    output_dir="trained",
    max_steps=1,
    per_device_train_batch_size=4,
    use_cpu=True,
    bf16=False,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    logging_nan_inf_filter=False,  # else a loss that is not finite is shown as 0
    **(ASSISTANT if "assistant" in sys.argv else {}),
)
rows = load_dataset("json", data_files=DATA, split="train")
trainer = trl.SFTTrainer(model=MODEL, args=config, train_dataset=rows)
done = trainer.train()
examples = [{"ids": one["input_ids"], "labels": one["labels"]} for one in trainer.train_dataset]
print(json.dumps({"steps": done.global_step, "loss": done.training_loss, "examples": examples}))
