"""`state_identity`: a name for all that the bits of a state depend on, so that none is taken for another's; and
`files_identity`, for a model's files alone.

Nobody wants to wait until 45 GB are hashed: of the model's files name, size, time and samples must do.
"""

import platform
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import torch

SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of a file, spread over it
IDENTITY_BYTES, FILES_IDENTITY_BYTES = 16, 32
_CODE = Path(__file__).parent
_CPU_FACTS = ("vendor_id", "model name", "flags", "CPU part", "Features")


def state_identity(device: torch.device, files: Iterable[Path], *settings: object) -> str:
    """32 hexadecimal digits, from a model's files, the settings, this code, torch and the processors."""
    digest = blake2b(digest_size=IDENTITY_BYTES)
    for fact in (*settings, torch.__version__, device.type, *_processor(), *_gpu(device)):
        digest.update(f"{fact}\0".encode())
    for path in sorted(_CODE.rglob("*.py")):
        digest.update(path.relative_to(_CODE).as_posix().encode() + b"\0" + path.read_bytes())
    for path in files:
        _sample(path, digest)
    return digest.hexdigest()


def files_identity(files: Iterable[Path]) -> str:
    """64 hexadecimal digits, from a model's files."""
    digest = blake2b(digest_size=FILES_IDENTITY_BYTES)
    for path in files:
        _sample(path, digest)
    return digest.hexdigest()


def _processor() -> list[str]:
    """Libraries choose their code by these."""
    facts = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        facts += sorted({line for line in lines if line.startswith(_CPU_FACTS)})
    return facts


def _gpu(device: torch.device) -> list[object]:
    if device.type != "cuda":
        return []
    matmul = torch.backends.cuda.matmul
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return [name, capability, torch.version.cuda, matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


def _sample(path: Path, digest: blake2b) -> None:
    status = path.stat()
    digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, status.st_size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
