"""A plan's integers, packed into a batch's tensors; and the storage they address."""

from dataclasses import replace

import pytest
import torch

from engine.batch import PagedKV, RecurrentState
from engine.model.config import parse_model_config
from engine.plan import SampleSpec, ScheduledSequence, ScoreSpec, StateAction, StepPlan
from engine.runner.inputs import BatchBuilder, token_batch
from engine.runner.storage import Storage
from engine.types import SamplingParams
from tests.support.checkpoints import CONFIG

CPU = torch.device("cpu")
SPEC = SampleSpec(SamplingParams(), seed=0, choice=0, position=0)


def _sequence(
    seq_id: int, start: int, token_ids: tuple[int, ...], block_ids: tuple[int, ...], slot: int, spec: SampleSpec | None
) -> ScheduledSequence:
    return ScheduledSequence(seq_id, start, token_ids, block_ids, slot, StateAction.CONTINUE, spec)


def test_rows_of_several_sequences() -> None:
    plan = StepPlan(
        1,
        (
            _sequence(7, 0, (10, 11, 12, 13, 14), (5, 2), 3, SPEC),
            _sequence(8, 6, (20, 21, 22), (9, 0, 4), 0, None),  # crosses a block; its prompt goes on
            _sequence(9, 3, (30,), (1,), 2, SPEC),
        ),
    )
    batch = token_batch(plan, 4, CPU)
    assert batch.token_ids.tolist() == [10, 11, 12, 13, 14, 20, 21, 22, 30]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 3]
    assert batch.kv_rows.tolist() == [20, 21, 22, 23, 8, 2, 3, 16, 7]
    assert batch.sample_rows.tolist() == [4, 8]
    assert [(s.start, s.end, s.position, s.slot, s.context_len) for s in batch.spans] == [
        (0, 5, 0, 3, 5),
        (5, 8, 6, 0, 9),
        (8, 9, 3, 2, 4),
    ]
    assert [s.block_ids.tolist() for s in batch.spans] == [[5, 2], [9, 0, 4], [1]]
    for tensor in (batch.token_ids, batch.positions, batch.kv_rows, batch.sample_rows, batch.spans[0].block_ids):
        assert tensor.dtype == torch.int64


def test_nothing_to_sample() -> None:
    batch = token_batch(StepPlan(1, (_sequence(1, 0, (3, 4), (0,), 0, None),)), 4, CPU)
    assert batch.sample_rows.shape == (0,)
    assert batch.sample_rows.dtype == torch.int64


def test_rows_to_score() -> None:
    plan = StepPlan(
        1,
        (
            _sequence(1, 0, (3, 4, 5), (0,), 0, SPEC),
            replace(_sequence(2, 4, (6, 7, 8, 9), (2, 1), 1, None), score=ScoreSpec(1, (8, 9, 10), 5)),
            replace(_sequence(3, 0, (6, 7), (3,), 2, SPEC), score=ScoreSpec(0, (7,), 0)),
        ),
    )
    batch = token_batch(plan, 4, CPU)
    assert batch.score_rows.tolist() == [4, 5, 6, 7]
    assert batch.score_rows.dtype == torch.int64
    assert batch.sample_rows.tolist() == [2, 8]


def test_a_block_table_is_made_again_only_when_it_changed() -> None:
    builder = BatchBuilder(4, CPU)

    def tables(*block_ids: tuple[int, ...]) -> list[torch.Tensor]:
        sequences = [_sequence(n, 4 * len(ids) - 1, (1,), ids, n, SPEC) for n, ids in enumerate(block_ids)]
        return [span.block_ids for span in builder.build(StepPlan(1, tuple(sequences))).spans]

    first = tables((5, 2), (7,))
    second = tables((5, 2), (7, 3))
    assert second[0] is first[0]
    assert [table.tolist() for table in second] == [[5, 2], [7, 3]]
    assert [table.tolist() for table in tables((7, 3), (5, 2))] == [[7, 3], [5, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_storage_takes_what_the_configuration_says(dtype: torch.dtype) -> None:
    config = parse_model_config(CONFIG, {})
    num_blocks, block_size, num_slots = 5, 4, 3
    storage = Storage.allocate(config, num_blocks, block_size, num_slots, dtype, CPU)
    kinds = [PagedKV if kind == "full_attention" else RecurrentState for kind in config.layer_types]
    assert [type(layer) for layer in storage.layers] == kinds
    kv = sum(m.keys.nbytes + m.values.nbytes for m in storage.layers if isinstance(m, PagedKV))
    state = sum(m.delta.nbytes + m.conv.nbytes for m in storage.layers if isinstance(m, RecurrentState))
    assert kv == num_blocks * block_size * config.kv_bytes_per_token(dtype.itemsize)
    assert state == num_slots * config.state_bytes


def test_a_slot_is_reset_alone() -> None:
    storage = Storage.allocate(parse_model_config(CONFIG, {}), 2, 4, 3, torch.float32, CPU)
    for layer in storage.layers:
        for tensor in (layer.keys, layer.values) if isinstance(layer, PagedKV) else (layer.delta, layer.conv):
            tensor.fill_(float("nan"))
    storage.reset_slot(1)
    for layer in storage.layers:
        if isinstance(layer, PagedKV):
            assert layer.keys.isnan().all()
            continue
        for tensor in (layer.delta, layer.conv):
            assert not tensor[1].any()
            assert tensor[[0, 2]].isnan().all()
