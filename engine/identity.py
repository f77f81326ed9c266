"""`state_identity`: a name for all that the bits of a state depend on, so that none is taken for another's.

Nobody wants to wait until 45 GB are hashed: of the model's files name, size, time and samples must do.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch

SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of a file, spread over it
IDENTITY_BYTES = 16
_CODE = Path(__file__).parent


def state_identity(files: Iterable[Path], *settings: object) -> str:
    """32 hexadecimal digits, from a model's files, the settings, this code, torch and the processor."""
    digest = blake2b(digest_size=IDENTITY_BYTES)
    known = (*settings, torch.__version__, torch.backends.cpu.get_cpu_capability())
    for fact in known:
        digest.update(f"{fact}\0".encode())
    for path in sorted(_CODE.rglob("*.py")):
        digest.update(path.relative_to(_CODE).as_posix().encode() + b"\0" + path.read_bytes())
    for path in files:
        _sample(path, digest)
    return digest.hexdigest()


def _sample(path: Path, digest: blake2b) -> None:
    status = path.stat()
    digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, status.st_size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
