"""`Inventory`: the tensors of a checkpoint, each to be taken once. Strict: whatever does not fit is told at the end."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from engine.errors import LoadError
from engine.weights.naming import NUM_NAMED, some
from engine.weights.safetensors import StoredTensor


class Inventory:
    """Tensors by name. It notes those that were asked for and not there, or not as asked for."""

    def __init__(self, tensors: Iterable[StoredTensor], source: Path) -> None:
        """`source` is what errors call the checkpoint."""
        self.source = source
        self._tensors: dict[str, StoredTensor] = {}
        self._missing: list[str] = []
        self._misfits: list[str] = []
        self._twice: list[str] = []
        for tensor in tensors:
            if tensor.name in self._tensors:
                self._twice.append(tensor.name)
            self._tensors[tensor.name] = tensor

    def get(self, name: str) -> StoredTensor | None:
        """Look at a tensor without taking it."""
        return self._tensors.get(name)

    def names(self) -> Iterable[str]:
        """Those that are left."""
        return self._tensors.keys()

    def take(self, name: str, shapes: Sequence[tuple[int, ...]], dtypes: Iterable[str]) -> Tensor | None:
        """A tensor of one of these shapes and types; None if there is none such, which is noted."""
        found = self._tensors.pop(name, None)
        if found is None:
            self._missing.append(name)
            return None
        if found.shape not in shapes:
            asked = " or ".join(str(list(shape)) for shape in shapes)
            self._misfits.append(f"tensor {name} has shape {list(found.shape)}, the configuration asks for {asked}")
            return None
        if found.dtype not in dtypes:
            self._misfits.append(f"tensor {name} is of type {found.dtype}, not {' or '.join(dtypes)}")
            return None
        return found.data

    def drop(self, name: str) -> None:
        """Forget a tensor that may be there and is not needed."""
        self._tensors.pop(name, None)

    def replaced(self, name: str) -> None:
        """Another tensor stands for this one: having both is wrong."""
        if self._tensors.pop(name, None):
            self._twice.append(name)

    def finish(self, ignored: Callable[[str], bool]) -> None:
        """See that all went well; `ignored` tells names that may be left over.

        Raises:
            LoadError: naming in one line whatever is missing, too much, there twice or of another shape.
        """
        problems = list(self._misfits[:NUM_NAMED])
        if len(self._misfits) > NUM_NAMED:
            problems.append(f"{len(self._misfits) - NUM_NAMED} more do not fit either")
        if self._twice:
            problems.append(f"it has {some(self._twice)} twice: leave the files of one model in the folder")
        if self._missing:
            problems.append(
                f"it lacks {some(self._missing)}: it is incomplete, or its configuration is another model's"
            )
        extra = [name for name in self._tensors if not ignored(name)]
        if extra:
            problems.append(f"it has tensors its configuration does not know: {some(extra)}")
        if problems:
            raise LoadError(f"{self.source}: {'; '.join(problems)}")
