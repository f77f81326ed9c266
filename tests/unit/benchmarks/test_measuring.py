"""Questions, limits, ratios: the figures that the table is made of."""

import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import Divergence
from benchmarks.cpu import targets
from benchmarks.limits import Demand, Limits, Part
from benchmarks.pairs import Answer, Decode, Prefill, agreement, alternate, decode_rate
from benchmarks.report import Loading, Report, Row
from benchmarks.subjects import Generated, SubjectFailed, Worker, answer_questions

LIMITS = Limits(read_bytes=1e9, bf16_operations=1e12, int8_operations=4e12)
DEMAND = Demand(
    num_bytes=100_000,
    head=Part(2000, 1000),
    dense=Part(6000, 3000),
    experts=Part(80_000, 40_000),
    expert_share=0.25,
    state_bytes=500,
    attention_operations=0,
    is_quantised=False,
)


class Scripted:
    """A worker that needs `seconds` for a token; notes what happens to it."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self._seconds, self._log = name, seconds, log
        self.is_running = False
        self.prompts: list[Sequence[Sequence[int]]] = []

    def ask(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        self._log.append(self.name)
        self.is_running = True
        self.prompts.append(prompts)
        moments = [self._seconds * (i + 1) for i in range(num_tokens)]
        return Generated([[7] * num_tokens for _ in prompts], [moments for _ in prompts])

    generate = ask

    def close(self) -> None:
        if self.is_running:
            self._log.append(f"{self.name} ends")
        self.is_running = False


def _alternated(together: bool) -> tuple[list[tuple[Answer, Answer]], list[str], Scripted, Scripted]:
    log: list[str] = []
    ours, theirs = Scripted("a", 0.5, log), Scripted("b", 1.0, log)
    pairs = list(alternate(ours, theirs, Decode(4, 9), 2, together))
    return pairs, log, ours, theirs


def test_pairs_are_asked_in_turn_the_same_questions() -> None:
    pairs, log, ours, theirs = _alternated(together=True)
    assert pairs == [(Answer(8.0, [7] * 4), Answer(4.0, [7] * 4))] * 2
    assert log == ["a", "a", "b", "b", "a", "b", "a", "b"]  # the first time each warms up
    assert ours.prompts == theirs.prompts
    assert len({str(prompts) for prompts in ours.prompts}) == 4  # of which no two are alike


def test_one_at_a_time_where_memory_is_short() -> None:
    pairs, log, *_ = _alternated(together=False)
    assert len(pairs) == 2
    assert log == ["a", "a", "a ends", "b", "b", "b ends"] * 2 + ["a", "a", "a ends", "b", "b"]


def test_rates_count_what_came_while_all_streams_ran() -> None:
    generated = Generated([[1, 1, 1, 1], [1, 1, 1, 1]], [[1.0, 2.0, 3.0, 4.0], [2.5, 3.5, 4.5, 5.5]])
    assert decode_rate(generated) == 2.0  # from 2.5 to 4.0, that is from 3.0 to 4.0 and from 2.5 to 3.5
    with pytest.raises(ValueError, match="more tokens"):
        decode_rate(Generated([[1], [1]], [[1.0], [2.0]]))


def test_a_prompts_rate_is_to_its_first_token() -> None:
    assert Prefill(100).ask(Scripted("a", 0.5, []), 0) == Answer(200.0, [7])


def test_agreement_is_over_all_streams() -> None:
    pairs = [(Answer(1.0, [1, 2]), Answer(1.0, [1, 3])), (Answer(1.0, [4, 5]), Answer(1.0, [4, 5]))]
    assert agreement(pairs) == 0.75


def test_one_stream_is_bound_by_bytes_a_prompt_by_operations() -> None:
    one_step = 2000 + 6000 + 0.25 * 80_000 + 2 * 500
    assert Decode(1, 8).limit(DEMAND, LIMITS) == pytest.approx(1e9 / one_step)
    experts_of_two = 80_000 * (1 - 0.75**2)
    two = 2000 + 6000 + experts_of_two + 2 * 2 * 500
    assert Decode(2, 8).limit(DEMAND, LIMITS) == pytest.approx(2e9 / two)
    long = 10**9
    per_token = 2 * (3000 + 10_000)
    assert Prefill(long).limit(DEMAND, LIMITS) == pytest.approx(1e12 / per_token)
    assert Prefill(long).limit(replace(DEMAND, is_quantised=True), LIMITS) == pytest.approx(4e12 / per_token)


@pytest.mark.parametrize("form", ["hub_folder", "gguf_file"])
def test_a_models_demand(form: str, request: pytest.FixtureRequest) -> None:
    demand = Demand.of(request.getfixturevalue(form))
    layers, experts, hidden, size = 4, 3, 32, 32
    rest = demand.head.num_bytes + demand.dense.num_bytes + demand.experts.num_bytes
    assert demand.num_bytes == rest + 2 * 290 * hidden  # of the embedding
    assert demand.head == Part(2 * 290 * hidden, 290 * hidden)
    assert demand.experts == Part(2 * layers * experts * 3 * hidden * size, layers * experts * 3 * hidden * size)
    assert demand.expert_share == pytest.approx(2 / 3)
    assert demand.attention_operations == 4 * 2 * 4 * 8
    conv, state = 3 * (2 * 8 + 16), 4 * 4 * 4
    assert demand.state_bytes == 2 * 4 * (conv + state)
    assert not demand.is_quantised
    attention = hidden * (2 * 32 + 16 + 16 + 32) + 2 * 8
    delta_net = hidden * (32 + 16 + 8 + 16) + 4 * 32 + 4 + 4 + 4
    feed_forward = hidden * (experts + 1 + 3 * 5)
    assert demand.dense.num_values == 2 * (attention + delta_net) + layers * (feed_forward + 2 * hidden) + hidden


def test_ratios_of_rates_and_of_seconds() -> None:
    row = Row("decode", "m", "p", "tokens/s", ours=[3.0, 4.0, 9.0], theirs=[2.0, 4.0, 3.0], limit=8.0)
    assert row.ratios == [1.5, 1.0, 3.0]
    assert row.ratio == 1.5
    assert row.share_of_limit == 0.5
    assert Row("start", "m", "p", "s", ours=[2.0], theirs=[3.0]).ratio == 1.5


def test_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("decode", "Q4_K_M", "p", "tokens/s", [3.0, 4.0], [2.0, 2.0], 1.1, 1.25, 8.0, LIMITS, 0.75)
    report = Report({"out": tmp_path, "pairs": 2}, [row], [Loading("m", 4_000, [5_000, 6_000], [7_000])])
    report.write(tmp_path / "new" / "out.json")
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["rows"][0]["ratios"] == [1.5, 2.0]
    assert written["rows"][0]["limits"]["read_bytes"] == 1e9
    assert written["loading"][0]["excess_bytes"] == 2_000
    report.print()
    printed = capsys.readouterr().out
    for text in ("1.75 ×", "1.50 – 2.00", "1.1 ×", "1.25 ×", "44%", "75%", "1.0 GB/s read"):
        assert text in printed


def test_targets_of_one_model_and_peer_are_together() -> None:
    groups = [(target.model, target.peer) for target in targets(8, [512, 2048], with_long_prompt=True)]
    changes = sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups)) - 1


def test_divergence_of_two_distributions() -> None:
    exact, computed = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    found = Divergence.between(exact, computed + 3.0)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found.mean == pytest.approx(first / 2)
    assert found.standard_error == pytest.approx(first / 2)  # of a value and zero: their deviation over √2
    assert found.p99 == pytest.approx(0.99 * first)
    assert found.same_token == 0.5


def test_questions_over_a_pipe() -> None:
    answers = io.StringIO()
    question = json.dumps({"prompts": [[1], [2]], "num_tokens": 2})
    answer_questions(Scripted("a", 0.5, []), io.StringIO(f"{question}\n{question}\n"), answers)
    lines = answers.getvalue().splitlines()
    assert [Generated(**json.loads(line)).seconds for line in lines] == [[[0.5, 1.0], [0.5, 1.0]]] * 2


def test_our_engine_in_a_process_of_its_own(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTALOOP_KERNELS", "reference")
    worker = Worker("deltaloop", hub_folder, sys.executable, ["--threads", "1"])
    assert not worker.is_running
    try:
        prompts = [[3, 1, 4], [1, 5, 9]]
        first, second = worker.ask(prompts, 5), worker.ask(prompts, 5)
    finally:
        worker.close()
    assert not worker.is_running
    assert [len(ids) for ids in first.token_ids] == [5, 5]
    assert first.token_ids == second.token_ids
    assert all(seconds == sorted(seconds) and seconds[0] > 0 for seconds in first.seconds)


def test_a_worker_that_cannot_load(tmp_path: Path) -> None:
    worker = Worker("deltaloop", tmp_path, sys.executable, ["--threads", "1"])
    with pytest.raises(SubjectFailed, match="deltaloop ended with code 1"):
        worker.ask([[1]], 1)
    worker.close()
