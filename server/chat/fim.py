"""Fill in the middle: the prompt that asks the model for what stands between two texts, and what ends its answer.

The form is that of the Qwen coder models. Knows the tokenizer, nothing of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from server.chat.tokenizer import Tokenizer

_PREFIX, _SUFFIX, _MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
_REPOSITORY, _FILE = "<|repo_name|>", "<|file_sep|>"
_KEPT_FILES = 2
_UNNAMED_REPOSITORY, _UNNAMED_FILE = "repository", "file"
_ENDS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(_PREFIX, _SUFFIX, _MIDDLE, "<|fim_pad|>"),
    *(_REPOSITORY, _FILE),  # the model would go on with another file
)


@dataclass(frozen=True, slots=True)
class FillInTheMiddle:
    """How one model does it: the ids of its marks, and `stop_ids`, the control tokens that end what it fills in."""

    tokenizer: Tokenizer
    prefix_id: int
    suffix_id: int
    middle_id: int
    stop_ids: tuple[int, ...]
    repository_id: int | None
    file_id: int | None

    @property
    def takes_files(self) -> bool:
        """Whether other files may stand before the text."""
        return self.repository_id is not None and self.file_id is not None

    def prompt_ids(
        self, prefix: str, suffix: str, line: str | None = None, files: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[int], list[int]]:
        """The prompt, and after how many of its tokens others may differ. Control tokens in the texts stay text.

        `line` is the end of what stands before the gap, that changes with each keystroke: the text before it is encoded
        by itself and stays the same tokens. By default it is the prefix's last line. Of `files`, name and text, one
        goes and another comes now and then.
        """
        if line is None:
            before, end, line = prefix.rpartition("\n")
            prefix = before + end
        ids, ends = self._file_ids(files) if files else ([], [])
        ids += [self.prefix_id, *self._plain(prefix)]
        if prefix:
            ends.append(len(ids))
        return [*ids, *self._plain(line), self.suffix_id, *self._plain(suffix), self.middle_id], ends

    def _file_ids(self, files: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """Other files, and where the last of them end: a state for each of many would cost more than it saves.

        That is how the model was shown repositories: its name, then file by file with the name on a line of its own.
        The last one is that in which the gap is; clients do not tell what it is called.
        """
        assert self.repository_id is not None
        assert self.file_id is not None
        ids, ends = [self.repository_id, *self._plain(f"{_UNNAMED_REPOSITORY}\n")], []
        for name, text in files:
            end = "" if text.endswith("\n") else "\n"
            ids += [self.file_id, *self._plain(f"{name}\n{text}{end}")]
            ends.append(len(ids))
        return [*ids, self.file_id, *self._plain(f"{_UNNAMED_FILE}\n")], ends[-_KEPT_FILES:]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, parse_special=False)


def fill_in_the_middle(tokenizer: Tokenizer) -> FillInTheMiddle | None:
    """The way of the tokenizer's model; None where its vocabulary has no marks for that."""
    marks = [_added_id(tokenizer, text) for text in (_PREFIX, _SUFFIX, _MIDDLE)]
    ends = [_added_id(tokenizer, text) for text in _ENDS]
    if None in marks:
        return None
    prefix_id, suffix_id, middle_id = (mark for mark in marks if mark is not None)
    stop_ids = tuple(end for end in ends if end is not None)
    files = _added_id(tokenizer, _REPOSITORY), _added_id(tokenizer, _FILE)
    return FillInTheMiddle(tokenizer, prefix_id, suffix_id, middle_id, stop_ids, *files)


def _added_id(tokenizer: Tokenizer, text: str) -> int | None:
    token_id = tokenizer.token_to_id(text)
    return token_id if token_id is not None and tokenizer.is_added(token_id) else None
