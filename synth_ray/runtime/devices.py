"""Devices: the one place that decides what runs where, and with which engine settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from synth_ray.core.errors import PrerequisiteError
from synth_ray.core.sections import VLLM, Compute

Device = Literal["cpu", "cuda"]

_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
_ENGINE_ENV: Mapping[Device, Mapping[str, str]] = {
    "cuda": _QUIET,
    "cpu": {
        **_QUIET,
        # One worker inside the engine core, as on one GPU: two processes in place of three.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Compiling the sampler's helpers costs seconds at the first request and gains nothing at CPU sizes.
        "TORCHDYNAMO_DISABLE": "1",
        # A second OpenMP thread on a busy core makes decoding ten times slower.
        "OMP_NUM_THREADS": "1",
    },
}
_CPU_BLOCK_TOKENS = 32


@dataclass(frozen=True)
class Plan:
    """What engine and trainer get. ``backend`` is torch.distributed's."""

    engine: Device
    engine_gpus: int
    trainer: Device
    trainer_workers: int

    @property
    def backend(self) -> str:
        """Collective backend of the trainer."""
        return "nccl" if self.trainer == "cuda" else "gloo"

    @property
    def gpus(self) -> int:
        """GPUs that the plan needs in all."""
        return self.engine_gpus + (self.trainer_workers if self.trainer == "cuda" else 0)


@dataclass(frozen=True)
class EngineSpec:
    """How an engine is started; ``model_dir`` is what it holds first, a request may name another."""

    model_dir: str
    device: Device
    num_gpus: int
    options: VLLM

    @property
    def env(self) -> dict[str, str]:
        """Environment of the engine's processes, set before they start."""
        return dict(_ENGINE_ENV[self.device])

    @property
    def dtype(self) -> str:
        """Weights and activations."""
        if self.options.dtype != "auto":
            return self.options.dtype
        return "float32" if self.device == "cpu" else "bfloat16"

    def engine_args(self, model_dir: str) -> dict[str, Any]:
        """Arguments of vLLM's ``AsyncEngineArgs``."""
        options = self.options
        common: dict[str, Any] = {
            "model": model_dir,
            "dtype": self.dtype,
            "max_model_len": options.max_model_len,
            "max_num_seqs": options.max_num_seqs,
            "tensor_parallel_size": options.tensor_parallel_size,
            "enable_lora": True,
            "max_lora_rank": options.max_lora_rank,
            "max_loras": options.max_loras,
            "max_cpu_loras": max(4, options.max_loras),
            # Log-probs of the distribution that was sampled from, temperature included.
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
        }
        if self.device == "cuda":
            return common | {"gpu_memory_utilization": options.gpu_memory_utilization}
        return common | {
            "enforce_eager": True,
            "block_size": _CPU_BLOCK_TOKENS,
            "kv_cache_memory_bytes": options.kv_cache_mib << 20,
            # vLLM rewinds a request's generator when it splits a prompt, which a CPU generator can't do.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, options.max_model_len),
        }


@dataclass(frozen=True)
class TrainingSpec:
    """How a training worker on ``device`` holds a model; ``frozen`` weights carry an adapter, others learn.

    Precisions are names of torch dtypes. Weights that learn are float32 everywhere: at fine-tuning rates bfloat16 would
    round most updates away. On a GPU they are computed with, and saved, as bfloat16.
    """

    device: Device
    frozen: bool = False
    four_bit: bool = False

    @property
    def compute_dtype(self) -> str:
        """Precision of activations and of saved weights."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def weights_dtype(self) -> str:
        """Precision of the weights in memory."""
        return self.compute_dtype if self.frozen else "float32"

    def loading_options(self, place: str) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` beside the dtype; ``place`` is torch's name of this worker's device.

        Raises PrerequisiteError for 4 bits without a GPU.
        """
        flash = self.device == "cuda" and find_spec("flash_attn") is not None
        options: dict[str, Any] = {"attn_implementation": "flash_attention_2"} if flash else {}
        if not self.four_bit:
            return options
        check_four_bit(self.device)
        from transformers import BitsAndBytesConfig

        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.compute_dtype,
        )
        # The weights are quantised on their way to the device, and can't be moved afterwards.
        return {**options, "quantization_config": quantisation, "device_map": {"": place}}


def check_build(wanted: Device, built_for: str) -> None:
    """PrerequisiteError unless vLLM runs on the device that the engine was planned for; it chooses one by itself."""
    if built_for != wanted:
        raise PrerequisiteError(
            f"the engine was planned for {wanted}, but the installed vLLM runs on {built_for or 'nothing here'}",
            "install the stack of this machine (requirements/README.md: make install is the CPU's, gpu.txt the GPU's), "
            "or change compute.topology.gpus_for_vllm",
        )


def check_four_bit(device: Device) -> None:
    """PrerequisiteError unless 4-bit weights can be held on ``device``: that takes CUDA and bitsandbytes."""
    if device != "cuda":
        raise PrerequisiteError(
            'variety = "qlora" needs a GPU: 4-bit weights have no CPU kernels here',
            'use variety = "lora", or set compute.topology.gpus_for_training = 1 on a GPU cluster',
        )
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise PrerequisiteError(
            'variety = "qlora" needs the packages bitsandbytes and accelerate',
            "install them beside synth-ray[gpu]: pip install bitsandbytes accelerate",
        )


def plan(compute: Compute) -> Plan:
    """GPUs as the topology asks; a role without a GPU runs on CPU with the same code."""
    topology = compute.topology
    return Plan(
        engine="cuda" if topology.gpus_for_vllm else "cpu",
        engine_gpus=topology.gpus_for_vllm,
        trainer="cuda" if topology.gpus_for_training else "cpu",
        trainer_workers=topology.gpus_for_training or topology.cpu_workers,
    )
