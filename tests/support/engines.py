"""Engines over a real model without files or sockets: the core, the runner, and a loop that drives them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.cache.lower_tier import LowerTier
from engine.constraints.constraints import Constraints
from engine.core import CoreLimits, EngineCore
from engine.filing import StateFiles
from engine.kernels.table import reference_kernels
from engine.model.config import parse_model_config
from engine.model.qwen3_next import Qwen3Next
from engine.runner.cache_folder import CacheFolder
from engine.runner.host_states import StatesInMemory
from engine.runner.runner import Runner
from engine.runner.state_files import FolderOfStates
from engine.runner.storage import Storage
from engine.sampling.sampler import no_mask
from engine.scheduler.sequence import Sequence
from engine.types import CacheTier, FinishReason, GenerationRequest, TokenLogprobs, TokenOutput
from engine.weights.conversion import Conversion
from engine.weights.hub import HubWeights
from engine.weights.safetensors import StoredTensor
from tests.support.checkpoints import shapes

CPU = torch.device("cpu")
BLOCK_SIZE = 8


def random_weights(fields: Mapping[str, Any], dtype: torch.dtype, seed: int = 0) -> Qwen3Next:
    """A model of any dimensions, given as in a config.json, with random weights, without a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for name, shape in shapes(fields).items():
        scale = 0.3 if len(shape) == 1 or "conv1d" in name else shape[-1] ** -0.5
        values = torch.randn(shape, generator=generator) * scale + (1.0 if "attn.norm" in name else 0.0)
        stored = "F32" if dtype == torch.float32 else "BF16"
        tensors.append(StoredTensor(name, stored, shape, values.to(dtype)))
    config = parse_model_config(fields, {})
    source = HubWeights(config, tensors, Path("random weights"), Conversion(dtype, CPU))
    return Qwen3Next.load(config, source, reference_kernels())


@dataclass
class Answer:
    """Everything one request got."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    tier: CacheTier | None = None


def run(
    model: Qwen3Next,
    arrivals: Iterable[tuple[int, GenerationRequest]],
    *,
    num_blocks: int = 200,
    num_slots: int = 16,
    num_checkpoints: int = 0,
    max_tokens_per_step: int = 2048,
    folder: Path | None = None,
    max_host_bytes: int = 0,
    constraints: Constraints | None = None,
) -> dict[str, Answer]:
    """Serve requests that arrive before the given steps; answers by request id. With a folder, what is kept at the end
    stays there, and what is there already is used. What is kept is copied after each step to the host's memory, if
    there is any."""
    config = model.config
    limits = CoreLimits(
        max_model_len=(num_blocks - 1) * BLOCK_SIZE,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        num_slots=num_slots,
        max_num_batched_tokens=max_tokens_per_step,
        max_inter_token_gap_seconds=3600.0,
        num_checkpoints=num_checkpoints,
        max_host_bytes=max_host_bytes,
        max_disk_bytes=1 << 30 if folder else 0,
        state_bytes=config.state_bytes,
        block_bytes=BLOCK_SIZE * config.kv_bytes_per_token(4),
    )
    core = EngineCore(limits, constraints=constraints)
    kv_dtype = model.embedding.dense().dtype
    storage = Storage.allocate(config, num_blocks, BLOCK_SIZE, num_slots + num_checkpoints, kv_dtype, CPU)
    masks = constraints.mask if constraints is not None else no_mask
    runner = Runner(model, storage, BLOCK_SIZE, config.vocab_size, masks)
    host, disk = core.lower.get(CacheTier.HOST), core.lower.get(CacheTier.DISK)
    copies = StatesInMemory(storage)
    files = FolderOfStates(CacheFolder(folder), "0" * 32, storage) if folder else None
    if disk is not None and files is not None:
        disk.know(files.known())
    pending = sorted(arrivals, key=lambda arrival: arrival[0])
    answers: dict[str, Answer] = {}
    step = 0
    while pending or core.scheduler.has_work:
        while pending and pending[0][0] <= step:
            request = pending.pop(0)[1]
            core.validate(request)
            core.add(request)
            answers[request.request_id] = Answer()
        plan = core.schedule()
        if host is not None:
            _load(host, copies)
        if disk is not None and files is not None:
            _load(disk, files)
        step += 1
        if plan is None:
            continue
        for sequence, output in core.apply(plan, runner.execute(plan)):
            _note(answers, sequence, output)
        if host is not None:
            _save(host, copies)
        core.scheduler.check()
    assert core.scheduler.cache.num_blocks_free == num_blocks
    if disk is not None and files is not None:
        _save(disk, files)
        files.close()
    return answers


def _load(tier: LowerTier, files: StateFiles) -> None:
    for load in tier.take_loads():
        files.read(load.transfer)
        tier.loaded(load)


def _save(tier: LowerTier, files: StateFiles) -> None:
    while (save := tier.next_save(settled=False)) is not None:
        files.write(save.transfer)
        files.publish(save.transfer)
        tier.saved(save, is_published=True)
        files.remove(*tier.take_removed())


def _note(answers: dict[str, Answer], sequence: Sequence, output: TokenOutput) -> None:
    answer = answers[sequence.request.request_id]
    answer.token_ids += output.token_ids
    answer.logprobs += output.logprobs
    answer.prompt_logprobs += output.prompt_logprobs
    answer.finish_reason = sequence.finish_reason
    answer.num_preemptions = sequence.num_preemptions
    answer.num_cached_tokens = sequence.num_cached_tokens
    answer.tier = sequence.cache_report.tier if sequence.cache_report else None
