"""The C interface of the kernels as Python sees it: csrc/api.h word for word, by ctypes, which lets go of the GIL.

Pointers are plain integers here, as `Tensor.data_ptr` gives them; whoever hands one over keeps the memory alive.
"""

import ctypes
import logging
import re
from collections.abc import Callable
from ctypes import c_double, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import ClassVar

import torch

from engine.kernels.compiler import BuildError

logger = logging.getLogger(__name__)

assert torch.__version__  # imported first: the library then shares torch's OpenMP runtime instead of bringing its own
OPENMP_RUNTIME = re.compile(r"/lib(?:gomp|omp|iomp5)\b[^/\n]*\.so[^/\n]*$", re.MULTILINE)

OUT_OF_MEMORY, UNSUPPORTED, NO_SCALE = 1, 2, 3
INT8, BF16, F32 = 0, 1, 2  # dl_form
NOT_FINITE, ALL_BARRED = -1, -2  # dl_no_token


class DlMatrix(ctypes.Structure):
    """`dl_matrix`."""

    _fields_: ClassVar = [
        ("parts", c_void_p),
        ("scales", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("row_bytes", c_int64),
        ("format", c_int32),
        ("form", c_int32),
        ("group", c_int32),
        ("scale_rows", c_int32),
        ("packed", c_int32),
    ]


class DlSpan(ctypes.Structure):
    """`dl_span`."""

    _fields_: ClassVar = [
        ("start", c_int64),
        ("num_rows", c_int64),
        ("position", c_int64),
        ("slot", c_int64),
        ("block_ids", c_void_p),
    ]


class DlDeltaNet(ctypes.Structure):
    """`dl_delta_net`."""

    _fields_: ClassVar = [
        ("key_heads", c_int64),
        ("value_heads", c_int64),
        ("key_dim", c_int64),
        ("value_dim", c_int64),
        ("conv_kernel", c_int64),
        ("q_offset", c_int64),
        ("q_stride", c_int64),
        ("k_offset", c_int64),
        ("k_stride", c_int64),
        ("v_offset", c_int64),
        ("v_stride", c_int64),
        ("z_offset", c_int64),
        ("z_stride", c_int64),
        ("ba_offset", c_int64),
        ("conv", c_void_p),
        ("decay_rate", c_void_p),
        ("dt_bias", c_void_p),
        ("norm", c_void_p),
        ("eps", c_float),
        ("l2_eps", c_float),
    ]


class DlAttention(ctypes.Structure):
    """`dl_attention`."""

    _fields_: ClassVar = [
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("rotary_half", c_int64),
        ("k_offset", c_int64),
        ("v_offset", c_int64),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("eps", c_float),
        ("kv_is_bf16", c_int32),
        ("block_size", c_int64),
    ]


class DlMoe(ctypes.Structure):
    """`dl_moe`."""

    _fields_: ClassVar = [
        ("norm", c_void_p),
        ("eps", c_float),
        ("top_k", c_int32),
        ("normalise", c_int32),
        ("router", c_void_p),
        ("gate", c_void_p),
        ("up", c_void_p),
        ("down", c_void_p),
        ("shared_gate", c_void_p),
        ("shared_gate_proj", c_void_p),
        ("shared_up", c_void_p),
        ("shared_down", c_void_p),
    ]


class DlDraw(ctypes.Structure):
    """`dl_draw`."""

    _fields_: ClassVar = [
        ("uniform", c_double),
        ("top_p", c_double),
        ("min_p", c_float),
        ("scale", c_float),
        ("repetition", c_float),
        ("presence", c_float),
        ("frequency", c_float),
        ("top_k", c_int64),
        ("num_logprobs", c_int64),
        ("num_seen", c_int64),
        ("num_biases", c_int64),
        ("num_allowed", c_int64),
        ("num_barred", c_int64),
        ("num_mask_bytes", c_int64),
        ("seen_ids", c_void_p),
        ("seen_counts", c_void_p),
        ("bias_ids", c_void_p),
        ("biases", c_void_p),
        ("allowed_ids", c_void_p),
        ("barred_ids", c_void_p),
        ("mask", c_void_p),
        ("top_ids", c_void_p),
        ("top_logprobs", c_void_p),
        ("logprob", c_double),
        ("token_id", c_int64),
    ]


_P, _N = c_void_p, c_int64
SIGNATURES = {
    "dl_set_codebook": (c_int, _P),
    "dl_embed": (_P, _P, _N, _P, c_int),
    "dl_rms_norm": (_P, _N, _N, _P, c_float, _P, c_int),
    "dl_linear": (_P, _N, _N, _P, c_float, _P, c_int, _P, _N, c_int, c_int),
    "dl_moe_add": (_P, _P, _N, c_int),
    "dl_mlp_add": (_P, c_float, _P, _P, _P, _P, _N, c_int),
    "dl_delta_net_mix": (_P, _P, _N, _P, _P, _P, _N, _P, c_int),
    "dl_attention_mix": (_P, _P, _N, _P, _P, _P, _P, _P, _P, _N, _P, c_int),
    "dl_sample": (_P, _N, _N, _N, _P, c_int),
    "dl_quantise": (c_int, c_int, _P, _N, _N, _P, c_int),
    "dl_pack": (c_int, c_int, _P, _N, _N, _N, _P, c_int),
}


class Library:
    """The loaded library: each `dl_` function as a callable that takes integers and floats and returns a code."""

    def __init__(self, path: Path) -> None:
        """Load it; raises `BuildError` when the system refuses, or it lacks a function."""
        before = _openmp_runtimes()
        try:
            loaded = ctypes.CDLL(str(path))
            for name, types in SIGNATURES.items():
                function = getattr(loaded, name)
                function.argtypes, function.restype = types, c_int
        except (OSError, AttributeError) as error:
            raise BuildError(f"the kernels cannot be loaded: {error}") from error
        another = _openmp_runtimes() - before
        if before and another:
            logger.warning("two OpenMP runtimes get in each other's way: %s", ", ".join(sorted(before | another)))
        self.set_codebook: Callable[..., int] = loaded.dl_set_codebook
        self.embed: Callable[..., int] = loaded.dl_embed
        self.rms_norm: Callable[..., int] = loaded.dl_rms_norm
        self.linear: Callable[..., int] = loaded.dl_linear
        self.moe_add: Callable[..., int] = loaded.dl_moe_add
        self.mlp_add: Callable[..., int] = loaded.dl_mlp_add
        self.delta_net_mix: Callable[..., int] = loaded.dl_delta_net_mix
        self.attention_mix: Callable[..., int] = loaded.dl_attention_mix
        self.sample: Callable[..., int] = loaded.dl_sample
        self.quantise: Callable[..., int] = loaded.dl_quantise
        self.pack: Callable[..., int] = loaded.dl_pack


def check(code: int) -> None:
    """Turn what a function returned into an exception, if it is an error."""
    if code == OUT_OF_MEMORY:
        raise MemoryError("no memory for the scratch space of a kernel")
    if code == NO_SCALE:
        raise ValueError("weights that are not finite, or too large, cannot be quantised")
    if code:
        raise RuntimeError(f"a kernel does not know this format of weights (code {code})")


def _openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> frozenset[str]:
    """The files of OpenMP runtimes in this process; empty where Linux does not tell."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.split(maxsplit=5)[-1] for line in lines if OPENMP_RUNTIME.search(line))
