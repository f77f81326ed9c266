"""How an engine is set up: one frozen value, resolved by whoever starts it. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "bfloat16", "float32"]
Quantization = Literal["none", "int8", "int4"]
Packing = Literal["auto", "on", "off"]

# Read by the kernels themselves: for packaging, debugging and tests, so they are no options.
KERNEL_VARIABLES = ("DELTALOOP_KERNELS", "DELTALOOP_KERNELS_DIR", "DELTALOOP_ISA", "DELTALOOP_KERNELS_CACHE")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine. None means: choose what suits the model and the machine.

    Attributes:
        model: folder with config.json and *.safetensors, or a GGUF file.
        device, dtype: "auto" takes CUDA when there is one, and the dtype the checkpoint names.
        quantization: what to make of dense weights while they are read. int8 is Q8_0; int4 has 4 bits for the routed
            experts and Q8_0 for the rest. Embedding and router stay as they are.
        packing: whether quantised weights are rearranged for faster reading, in memory, while nobody waits; else they
            stay mapped from their file. "auto" does where memory can hold them. The tokens are the same.
        max_model_len: most tokens of one sequence, prompt and answer.
        max_num_seqs: most sequences that run at once; each takes a state slot.
        max_running_per_key: most sequences of one owner that run at once; None: no such bound.
        max_num_batched_tokens: most tokens computed in one step.
        kv_cache_memory_bytes: memory for KV blocks and state slots together.
        cache_ram_bytes: main memory for states kept between requests: of the above on a CPU, beside it on a GPU, which
            keeps some in its own memory too. 0 keeps none anywhere, and reads every prompt whole.
        cache_dir: folder where such states are kept on disk too, so that they outlive the process; None: nowhere.
        cache_disk_bytes: of it, how much; None takes half of what is free.
        gpu_memory_utilization: share of the device's memory the engine may fill, CUDA only.
        threads: compute threads on the CPU.
        seed: the seed of every request that brings none; None draws a fresh one for each.
        max_num_queued_reqs, max_num_queued_tokens: bounds of the waiting line.
        max_inter_token_gap_seconds: while something streams, prompts are read in chunks that keep a step this short.
        block_size: tokens in a KV block.
        num_used_tokens: ids from here up have no token; they are never drawn. None: every row of lm_head is a token.
    """

    model: Path
    device: Device = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    packing: Packing = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_running_per_key: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    cache_ram_bytes: int | None = None
    cache_dir: Path | None = None
    cache_disk_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    threads: int | None = None
    seed: int | None = None
    max_num_queued_reqs: int = 1024
    max_num_queued_tokens: int | None = None
    max_inter_token_gap_seconds: float = 0.25
    block_size: int = 64
    num_used_tokens: int | None = None
