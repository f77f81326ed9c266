"""Draws in the terms of the C interface, and what was drawn in ours."""

import ctypes
from array import array
from collections.abc import Iterable, Sequence

from engine.kernels.library import ALL_BARRED, NOT_FINITE, DlDraw
from engine.kernels.sampling.reference import LOG2_E
from engine.sampling.draw import Draw, Drawn, NoToken
from engine.types import TokenLogprobs

NO_TOKEN = {NOT_FINITE: NoToken.NOT_FINITE, ALL_BARRED: NoToken.ALL_BARRED}


class DescribedDraws:
    """An array of `dl_draw` with all that it points to, for rows of `vocab` logits."""

    def __init__(self, draws: Sequence[Draw], vocab: int) -> None:
        self._vocab = vocab
        self._kept: list[array[int] | array[float]] = []
        self._tops: dict[int, tuple[array[int], array[float]]] = {}  # by row, where log-probabilities are wanted
        self._array = (DlDraw * len(draws))(*[self._describe(row, draw) for row, draw in enumerate(draws)])
        self.address = ctypes.addressof(self._array)

    def results(self) -> list[Drawn | NoToken]:
        """What was drawn, once the kernel has run."""
        return [self._result(row, described) for row, described in enumerate(self._array)]

    def _result(self, row: int, described: DlDraw) -> Drawn | NoToken:
        token_id = described.token_id
        if token_id < 0:
            return NO_TOKEN[token_id]
        if row not in self._tops:
            return Drawn(token_id)
        return Drawn(token_id, TokenLogprobs(token_id, described.logprob, tuple(zip(*self._tops[row], strict=True))))

    def _describe(self, row: int, draw: Draw) -> DlDraw:
        params = draw.params
        described = DlDraw(
            uniform=draw.uniform,
            top_p=params.top_p,
            min_p=params.min_p,
            scale=0.0 if draw.is_greedy else LOG2_E / params.temperature,
            repetition=params.repetition_penalty,
            presence=params.presence_penalty,
            frequency=params.frequency_penalty,
            top_k=min(params.top_k, self._vocab),
            num_logprobs=-1,
        )
        if params.logprobs is not None:
            described.num_logprobs = min(params.logprobs, self._vocab)
            top = array("q", bytes(8 * described.num_logprobs)), array("d", bytes(8 * described.num_logprobs))
            self._tops[row] = top
            described.top_ids, described.top_logprobs = _address(top[0]), _address(top[1])
        if draw.seen_ids:
            described.num_seen = len(draw.seen_ids)
            described.seen_ids, described.seen_counts = _address(draw.seen_ids), _address(draw.seen_counts)
        if params.logit_bias:
            described.num_biases = len(params.logit_bias)
            described.bias_ids = self._keep("q", params.logit_bias)
            described.biases = self._keep("f", params.logit_bias.values())
        if params.allowed_token_ids is not None:
            described.num_allowed = len(params.allowed_token_ids)
            described.allowed_ids = self._keep("q", params.allowed_token_ids)
        if draw.mask is not None:
            described.num_mask_bytes = len(draw.mask)
            described.mask = self._keep("B", draw.mask)
        if draw.barred_token_ids:
            described.num_barred = len(draw.barred_token_ids)
            described.barred_ids = self._keep("q", draw.barred_token_ids)
        return described

    def _keep(self, typecode: str, values: Iterable[float]) -> int:
        self._kept.append(array(typecode, values))
        return _address(self._kept[-1])


def _address(data: "array[int] | array[float]") -> int:
    return data.buffer_info()[0]
