"""Drives our backend API with the unmodified old client from the package index: its `train` and `status` verbs.

    python tests/old_client/run_backend.py VENV_DIR

makes VENV_DIR-0.2.17 (once), starts our gateway with a cluster that plays at training, exits 0 if every check passed.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from run import CHECKOUT, SDK_VERSION, TIMEOUT_S, client_env

MODEL = "Qwen/Qwen3-0.6B"
RL = f"""
[algorithm]
type = "online"
method = "policy_gradient"
variety = "gspo"

[services]
task_url = "placeholder"

[compute]
gpu_type = "H200"
gpu_count = 2

[compute.topology]
type = "single_node_split"
gpus_for_vllm = 1
gpus_for_training = 1
gpus_for_ref = 0
tensor_parallel = 1

[vllm]
tensor_parallel_size = 1
max_model_len = 4096

[model]
base = "{MODEL}"
trainer_mode = "lora"
label = "old"

[lora]
r = 16
alpha = 32
dropout = 0.05
target_modules = ["all-linear"]

[rollout]
env_name = "crafter"
policy_name = "crafter-react"
max_turns = 10
episodes_per_batch = 16
max_concurrent_rollouts = 8

[training]
num_epochs = 1
iterations_per_epoch = 3
max_turns = 10
batch_size = 4
group_size = 4
learning_rate = 5e-5
weight_sync_interval = 1
log_interval = 1

[training.weight_sync]
enable = true
targets = ["policy"]

[evaluation]
instances = 2
every_n_iters = 2
seeds = [0, 1]
"""
SFT = f"""
[algorithm]
type = "offline"
method = "sft"
variety = "fft"

[job]
model = "{MODEL}"
data = "data.jsonl"

[compute]
gpu_type = "H200"
gpu_count = 1
nodes = 1

[training]
mode = "full_finetune"

[hyperparameters]
n_epochs = 1
batch_size = 4
sequence_length = 512
learning_rate = 1e-5
warmup_ratio = 0.03
"""
LINE = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}


class Client:
    """The old command line in a folder of its own."""

    def __init__(self, folder: Path, program: Path, environ: dict[str, str]) -> None:
        self.folder, self.program, self.environ = folder, program, environ
        self.failed = 0

    def __call__(self, name: str, arguments: list[str], *must_say: str) -> str:
        """What the command says; counts a failure unless it succeeds and says all that it must."""
        command = [str(self.program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        missing = [one for one in must_say if one not in done.stdout]
        passed = done.returncode == 0 and not missing
        print(f"{'ok   ' if passed else 'FAIL '} {name}", flush=True)
        if not passed:
            self.failed += 1
            print(f"missing: {missing}\n", done.stdout[-6000:], done.stderr[-3000:])
        return done.stdout


def train(client: Client, url: str) -> str:
    """Both kinds of training, with and without waiting; returns the id of the last RL job."""
    common = ["--backend", url, "--env-file", ".env"]
    rl = ["train", "--type", "rl", "--config", "rl.toml", *common, "--task-url", f"{url}/grpo-crafter"]
    client(
        "train rl --no-poll", [*rl, "--no-poll"], "Verification OK", "Task app healthy", "Response 201", "Created job"
    )
    again = [*rl, "--no-poll", "--idempotency", "same"]
    ids = {re.findall(r"Created job (job_\w+)", client("train rl --idempotency", again))[0] for _ in range(2)}
    client.failed += len(ids) != 1
    polled = client(
        "train rl --poll",
        [*rl, "--poll", "--poll-interval", "0.5"],
        *("status=running", "rl.train.step", "train.reward_mean=0.0 (step=1)", "train.reward_mean=0.125 (step=3)"),
        *("rl.job.completed", "Final status: succeeded", f"rl:{MODEL}:job_"),
    )
    sft = ["train", "--type", "sft", "--config", "sft.toml", *common]
    client(
        "train sft --poll",
        [*sft, "--poll", "--poll-interval", "0.5"],
        *("Training file uploaded", "Training file ready", "Job created", "Job started", "train.loss"),
        *("sft.job.completed", "Final status: succeeded", f"fft:{MODEL}:job_"),
    )
    return re.findall(r'"job_id": "(job_\w+)"', polled)[-1]


def status(client: Client, url: str, job: str) -> None:
    """Every view of the records."""

    def ask(group: str, verb: str, *more: str, say: tuple[str, ...]) -> str:
        return client(f"status {group} {verb}", ["status", group, verb, "--base-url", url, *more], *say)

    ask("jobs", "list", say=("rl_online", "sft_offline", "succeeded"))
    listed = json.loads(ask("jobs", "list", "--json", "--status", "succeeded", "--type", "rl_online", say=(job,)))
    client.failed += {one["training_type"] for one in listed} != {"rl_online"}
    ask("jobs", "get", job, "--json", say=(job, f"rl:{MODEL}:{job}"))
    ask("jobs", "status", job, say=("succeeded",))
    ask("jobs", "config", job, "--json", say=("policy_gradient",))
    ask("jobs", "metrics", job, "--json", say=("train.reward_mean",))
    ask("jobs", "timeline", job, say=("training", "succeeded"))
    ask("jobs", "logs", job, say=("step 1", "step 2", "step 3"))
    ask("jobs", "logs", job, "--tail", "1", say=("succeeded",))
    ask("jobs", "history", job, say=("ray",))
    ask("jobs", "cancel", job, say=("has ended already",))
    ask("models", "list", say=("Fine-tuned Models", "ready"))
    ask("models", "list", "--type", "rl", "--json", say=(f"rl:{MODEL}:{job}",))
    ask("models", "get", f"rl:{MODEL}:{job}", say=(MODEL,))
    found = json.loads(ask("files", "list", "--purpose", "fine-tune", "--json", say=("data.jsonl",)))
    ask("files", "get", found[0]["id"], say=("data.jsonl", "fine-tune"))
    ask("runs", "list", job, say=("succeeded",))
    ask("runs", "logs", job, "--run", "1", say=("step 3",))
    client("status summary", ["status", "summary", "--base-url", url], "Training Jobs", "Training Files")


def main() -> int:
    program = client_env(Path(sys.argv[1]).resolve(), SDK_VERSION) / "synth-ai"
    keys = {"SYNTH_API_KEY": secrets.token_urlsafe(24), "ENVIRONMENT_API_KEY": secrets.token_urlsafe(24)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environ = {"PATH": os.environ["PATH"], "HOME": scratch, "CI": "true", "COLUMNS": "300", **keys}
        server_env = {**environ, "SYNTH_RAY_HOME": str(folder / "home"), "PYTHONPATH": str(CHECKOUT)}
        (folder / "rl.toml").write_text(RL)
        (folder / "sft.toml").write_text(SFT)
        (folder / "data.jsonl").write_text(f"{json.dumps(LINE)}\n" * 3)
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("backend_server.py"))],
            env=server_env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            client = Client(folder, program, {**environ, "TASK_APP_URL": f"{url}/grpo-crafter"})
            status(client, url, train(client, url))
        finally:
            server.communicate("", timeout=30)
    print(f"{client.failed} failed" if client.failed else "all passed")
    return 1 if client.failed else 0


if __name__ == "__main__":
    sys.exit(main())
