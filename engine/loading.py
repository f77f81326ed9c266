"""`load_engine`: from settings to an engine that is ready to start. The one place where everything is put together."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from engine.async_engine import AsyncEngine
from engine.batch import dtype_named
from engine.cache.lower_tier import LowerTier
from engine.client import EngineInfo
from engine.config import EngineConfig, Packing, Quantization
from engine.constraints.constraints import Constraints
from engine.core import CoreLimits, EngineCore
from engine.errors import LoadError
from engine.facts import model_facts
from engine.filing import StateFiles
from engine.identity import state_identity
from engine.kernels.choice import choose_kernels
from engine.model.config import ModelConfig
from engine.model.qwen3_next import Qwen3Next
from engine.quant.matrix import total_bytes
from engine.runner.cache_folder import CacheFolder
from engine.runner.host_states import StatesInMemory
from engine.runner.machine import available_memory_bytes, num_cores
from engine.runner.memory import MemoryNeeds, MemoryPlan, plan_memory
from engine.runner.packing import pack_mapped
from engine.runner.runner import Runner
from engine.runner.state_files import FolderOfStates
from engine.runner.storage import Storage
from engine.sampling.sampler import no_mask
from engine.types import CacheTier, Vocabulary
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.conversion import Conversion
from engine.weights.mapped import read_ahead

logger = logging.getLogger(__name__)

LoadProgress = Callable[[int, int], None]  # bytes read so far, bytes of the files

DEFAULT_NUM_BATCHED_TOKENS = 2048
HOST_CACHE_SHARE = 0.25  # of main memory, for states beside a GPU's own
CPU_CACHE_SHARE = 0.5  # of the memory that the weights leave
CROWDED_CACHE_SHARE = 0.125  # of all of it, where weights leave less: then parts of them are read from disk as needed
PACKING_SPARE_BYTES = 2 << 30  # must be left beside packed weights, for what else the engine needs
SERVED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def load_engine(
    config: EngineConfig,
    progress: LoadProgress | None = None,
    vocabulary: Callable[[], Vocabulary] | None = None,
) -> AsyncEngine:
    """Read the model, plan and allocate its memory, and build the engine.

    Without a vocabulary no answer can be held to a grammar.

    Blocks for as long as reading takes. Call `start` on the result inside a running event loop.
    Raises:
        LoadError: the model, or the machine, cannot serve with these settings.
    """
    folder = CacheFolder(config.cache_dir) if config.cache_dir is not None else None
    device = _device(config)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or num_cores())
    checkpoint = open_checkpoint(config.model)
    model_config = checkpoint.config
    constraints = Constraints(vocabulary, model_config.eos_token_ids) if vocabulary is not None else None
    if constraints is not None:
        constraints.read_vocabulary()
    dtype = _dtype(config, model_config)
    kv_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
    available_bytes = available_memory_bytes()  # now: later it would count mapped weights as memory to be had
    model, num_weight_bytes = load_model(checkpoint, dtype, device, config.quantization, progress, config.packing)
    if config.packing == "on" and model.kernels.repack is None:
        logger.warning("packing is for compiled CPU kernels: with %s, weights stay as they are", model.kernels.name)
    packs = config.packing == "on" or (
        config.packing == "auto" and checkpoint.num_bytes + PACKING_SPARE_BYTES < available_bytes
    )
    budget_bytes = config.kv_cache_memory_bytes or _budget_bytes(config, device, available_bytes, num_weight_bytes)
    memory = _plan(config, model_config, kv_dtype, budget_bytes, num_weight_bytes, device)
    num_slots = memory.num_slots + memory.num_checkpoints
    storage = Storage.allocate(model_config, memory.num_blocks, config.block_size, num_slots, kv_dtype, device)
    runner = Runner(
        model,
        storage,
        config.block_size,
        config.num_used_tokens or model_config.vocab_size,
        constraints.mask if constraints is not None else no_mask,
    )
    limits = _limits(config, model_config, memory, kv_dtype)
    info = _info(config, limits, model_config, memory, dtype, kv_dtype, device)
    info = replace(info, model=model_facts(checkpoint, model.matrices))
    files: dict[CacheTier, StateFiles] = {}
    if host_bytes := _host_bytes(config, device, memory, available_bytes):
        files[CacheTier.HOST] = StatesInMemory(storage)
        limits = replace(limits, max_host_bytes=host_bytes)
        logger.info("%.2f GiB of main memory for kept states, beside the GPU's own", host_bytes / 2**30)
    if folder is not None:
        facts = (dtype, kv_dtype, config.quantization, config.block_size, model.kernels.version)
        identity = state_identity(device, checkpoint.paths, *facts)
        files[CacheTier.DISK] = in_folder = FolderOfStates(folder, identity, storage)
        limits = replace(limits, max_disk_bytes=folder.room(identity, config.cache_disk_bytes))
        info = replace(info, cache_folder=in_folder.path)
        if not memory.num_checkpoints:
            logger.warning("without --cache-ram-bytes nothing is kept, on disk neither: --cache-dir is of no use")
    core = EngineCore(limits, config.seed, constraints=constraints)
    for tier, lower in core.lower.items():
        lower.know(files[tier].known())
    if info.cache_folder is not None:
        _tell_known(core.lower[CacheTier.DISK], info.cache_folder)
    return AsyncEngine(
        core,
        runner,
        info,
        config.max_num_queued_reqs,
        config.max_num_queued_tokens,
        spare_work=pack_mapped(model) if packs else None,
        files=files,
    )


def _tell_known(disk: LowerTier, folder: Path) -> None:
    used, allowed = disk.num_bytes / 2**30, disk.max_bytes / 2**30
    logger.info("%d states on disk from earlier, %.2f of %.2f GiB, in %s", len(disk), used, allowed, folder)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
    progress: LoadProgress | None = None,
    packing: Packing = "auto",
) -> tuple[Qwen3Next, int]:
    """The model with its weights, and how many bytes its matrices take.

    On a CPU what is not converted stays mapped. It is read once before this returns, unless memory cannot hold it. With
    `packing` other than "off", what is converted is packed.
    """
    available_bytes = available_memory_bytes()
    done, total = 0, checkpoint.num_bytes

    def report(num_bytes: int) -> None:
        nonlocal done
        done = min(done + num_bytes, total)  # what is converted is counted, and may be larger than its file
        if progress is not None:
            progress(done, total)

    kernels = choose_kernels(device, dtype, torch.get_num_threads())
    pack = None if packing == "off" else kernels.pack
    conversion = Conversion(dtype, device, quantization, kernels.quantise, pack)
    source = checkpoint.weights(conversion, report)
    model = Qwen3Next.load(checkpoint.config, source, kernels)
    num_bytes = total_bytes(model.matrices)
    if device.type == "cpu" and num_bytes > available_bytes:
        logger.warning("the weights take more memory than there is: parts of them will be read from disk as needed")
    elif device.type == "cpu":
        read_ahead((part for matrix in model.matrices for part in matrix.parts), report)
    report(total)  # what is left: headers are part of the files, but not of any tensor
    logger.info("kernels: %s", kernels.name)
    return model, num_bytes


def _device(config: EngineConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise LoadError(
            "device cuda: this torch sees no CUDA device; install a CUDA build of torch, or use --device cpu"
        )
    return torch.device(config.device)


def _dtype(config: EngineConfig, model_config: ModelConfig) -> torch.dtype:
    name = model_config.dtype if config.dtype == "auto" else config.dtype
    try:
        dtype = dtype_named(name)
    except ValueError as error:
        raise LoadError(f"dtype: {error}") from None
    if dtype not in SERVED_DTYPES:
        raise LoadError(f"dtype {name} is not served; use --dtype bfloat16 or float32")
    return dtype


def _plan(
    config: EngineConfig,
    model_config: ModelConfig,
    kv_dtype: torch.dtype,
    budget_bytes: int,
    num_weight_bytes: int,
    device: torch.device,
) -> MemoryPlan:
    kept_bytes = config.cache_ram_bytes
    if device.type != "cpu" and kept_bytes:
        kept_bytes = None  # that is main memory: see `_host_bytes`
    yarn = model_config.rope.yarn
    extended = int(yarn.factor * yarn.original_max_position_embeddings) if yarn else 0
    needs = MemoryNeeds(
        block_bytes=config.block_size * model_config.kv_bytes_per_token(kv_dtype.itemsize),
        block_size=config.block_size,
        slot_bytes=model_config.state_bytes,
        weights_bytes=num_weight_bytes,
        model_max_len=max(model_config.max_position_embeddings, extended),
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        checkpoint_bytes=kept_bytes,
    )
    memory = plan_memory(needs, budget_bytes)
    for note in memory.notes:
        logger.warning(note)
    return memory


def _budget_bytes(config: EngineConfig, device: torch.device, available_bytes: int, num_weight_bytes: int) -> int:
    """For cache and states; `available_bytes` is the machine's memory before the weights."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - (1.0 - config.gpu_memory_utilization) * total)
    left = available_bytes - num_weight_bytes
    return int(max(CPU_CACHE_SHARE * left, CROWDED_CACHE_SHARE * available_bytes))


def _host_bytes(config: EngineConfig, device: torch.device, memory: MemoryPlan, available_bytes: int) -> int:
    """For states beside a GPU's memory; on a CPU they are where steps compute."""
    if device.type == "cpu" or not memory.num_checkpoints:
        return 0
    return config.cache_ram_bytes or int(HOST_CACHE_SHARE * available_bytes)


def _limits(config: EngineConfig, model_config: ModelConfig, memory: MemoryPlan, kv_dtype: torch.dtype) -> CoreLimits:
    num_batched = config.max_num_batched_tokens or DEFAULT_NUM_BATCHED_TOKENS
    return CoreLimits(
        max_model_len=memory.max_model_len,
        vocab_size=model_config.vocab_size,
        eos_token_ids=model_config.eos_token_ids,
        num_blocks=memory.num_blocks,
        block_size=config.block_size,
        num_slots=memory.num_slots,
        max_num_batched_tokens=max(num_batched, memory.num_slots + 1),
        max_inter_token_gap_seconds=config.max_inter_token_gap_seconds,
        max_running_per_key=config.max_running_per_key,
        num_checkpoints=memory.num_checkpoints,
        state_bytes=model_config.state_bytes,
        block_bytes=config.block_size * model_config.kv_bytes_per_token(kv_dtype.itemsize),
    )


def _info(
    config: EngineConfig,
    limits: CoreLimits,
    model_config: ModelConfig,
    memory: MemoryPlan,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    device: torch.device,
) -> EngineInfo:
    return EngineInfo(
        max_model_len=limits.max_model_len,
        vocab_size=limits.vocab_size,
        eos_token_ids=limits.eos_token_ids,
        num_slots=limits.num_slots,
        num_blocks=limits.num_blocks,
        block_size=limits.block_size,
        kv_cache_bytes=limits.num_blocks * limits.block_size * model_config.kv_bytes_per_token(kv_dtype.itemsize),
        state_slot_bytes=model_config.state_bytes,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        max_num_queued_reqs=config.max_num_queued_reqs,
        num_checkpoints=limits.num_checkpoints,
        memory_plan=memory.table,
    )
