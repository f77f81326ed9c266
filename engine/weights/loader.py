"""Fills declared targets from a checkpoint, strictly: every target once, nothing left over, shapes equal."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from engine.errors import LoadError
from engine.layers.targets import Targets

NUM_NAMED = 3


def load_weights(
    tensors: Iterable[tuple[str, Tensor]],
    targets: Targets,
    ignored: Callable[[str], bool],
    progress: Callable[[int], None],
    source: Path,
) -> None:
    """Copy each tensor to where it belongs, casting to the target's dtype.

    `ignored` tells names that may be there and are not wanted; `progress` is told the bytes of each tensor read;
    `source` is what errors call the checkpoint.
    Raises:
        LoadError: naming what is missing, too much or there twice, or what has another shape.
    """
    missing = set(targets.tensors)
    extra: list[str] = []
    for name, tensor in tensors:
        destination, filled = _destination(targets, name)
        if destination is None:
            if not ignored(name):
                extra.append(name)
        elif destination.shape != tensor.shape:
            raise LoadError(
                f"{source}: tensor {name} has shape {list(tensor.shape)}, the configuration asks for"
                f" {list(destination.shape)}"
            )
        elif not missing.issuperset(filled):
            raise LoadError(f"{source} has {name} twice: leave the files of one model in the folder")
        else:
            destination.copy_(tensor)
            missing.difference_update(filled)
        progress(tensor.nbytes)
    if missing:
        raise LoadError(f"{source} lacks {_named(missing)}: it is incomplete, or its config.json is another model's")
    if extra:
        raise LoadError(f"{source} has tensors its config.json does not know: {_named(extra)}")


def _destination(targets: Targets, name: str) -> tuple[Tensor | None, tuple[str, ...]]:
    if name in targets.tensors:
        return targets.tensors[name], (name,)
    if name in targets.fused:
        return targets.fused[name].tensor, targets.fused[name].parts
    return None, ()


def _named(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:NUM_NAMED])
    more = len(ordered) - NUM_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
