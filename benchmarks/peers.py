"""The engines we are measured against, but for llama.cpp: each with its defaults and the weights as they are."""

import importlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.subjects import Generated, add_to

MODULES = {"llama.cpp": "llama_cpp", "transformers": "transformers", "vllm": "vllm"}
VLLM_CACHE_GB = 2
VLLM_CONTEXT = 4096


def is_installed(peer: str, python: str) -> bool:
    """Whether this interpreter's environment has a peer."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({MODULES[peer]!r}) is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0


class Transformers:
    """The reference implementation in bf16, with its own cache."""

    def __init__(self, model: Path, threads: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(threads)
        transformers: Any = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        loaded = transformers.Qwen3NextForCausalLM.from_pretrained(model, dtype=self._torch.bfloat16)
        self._model = loaded.eval()

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """See `Subject`."""
        generated = Generated.empty(len(prompts))
        started = time.perf_counter()
        with self._torch.inference_mode():
            ids, cache = self._torch.tensor(prompts), None
            for _ in range(num_tokens):
                out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                now = time.perf_counter() - started
                for stream, token_id in enumerate(ids[:, 0].tolist()):
                    add_to(generated, stream, token_id, now)
        return generated


class Vllm:
    """vLLM's engine for CPUs in bf16, in this process, without its prefix cache: every prompt here is a new one."""

    def __init__(self, model: Path, threads: int) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(VLLM_CACHE_GB)
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        vllm: Any = importlib.import_module("vllm")
        loaded = vllm.LLM(str(model), dtype="bfloat16", max_model_len=VLLM_CONTEXT, enable_prefix_caching=False)
        self._engine = loaded.llm_engine
        self._sampling_params = vllm.SamplingParams
        self._num_asked = 0

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """See `Subject`."""
        generated = Generated.empty(len(prompts))
        sampling = self._sampling_params(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        names = [f"{self._num_asked}-{stream}" for stream in range(len(prompts))]
        self._num_asked += 1
        for name, ids in zip(names, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": list(ids)}, sampling)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                stream = names.index(output.request_id)
                now = time.perf_counter() - started
                for token_id in output.outputs[0].token_ids[len(generated.token_ids[stream]) :]:
                    add_to(generated, stream, token_id, now)
        return generated
