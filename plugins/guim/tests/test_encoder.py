"""What a user's vectors depend on, and what not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast_guim.encoder import GuimEncoder

Batches = Callable[..., SequenceBatch]
Encoders = Callable[..., GuimEncoder]

VARIANTS = ["guim", "edi", "mh"]


def _users(encoder: GuimEncoder, batch: SequenceBatch) -> Tensor:
    with torch.no_grad():
        return encoder(batch).users


@pytest.mark.parametrize(
    ("variant", "shape", "dim"), [("guim", (3, 8), 8), ("edi", (1, 24), 24), ("mh", (3, 8), 8)]
)
def test_users_and_items_share_a_space(
    variant: str, shape: tuple[int, int], dim: int, encoder: Encoders, batch_of: Batches
) -> None:
    """C vectors of d beside items of d; GUI-EDI: one of C x d beside items of C x d."""
    model = encoder(variant=variant)

    assert tuple(_users(model, batch_of([[(3, 1)]]))[0].shape) == shape
    assert (model.num_vectors, model.dim) == shape
    assert model.embed_items(torch.tensor([3, 4])).shape == (2, dim)


def test_one_vector_makes_guim_and_gui_edi_the_same(encoder: Encoders, batch_of: Batches) -> None:
    """\"The GUI-EDI and the GUIM are exactly the same when C = 1\"."""
    one, other = encoder(vectors=1), encoder(vectors=1, variant="edi")
    other.load_state_dict(one.state_dict())
    batch = batch_of([[(3, 5), (4, 2)], [(5, 1)]])

    assert torch.equal(_users(one, batch), _users(other, batch))


def test_vectors_of_a_user_differ_from_the_start(encoder: Encoders, batch_of: Batches) -> None:
    """Tokens [CLS] have embeddings of their own."""
    first, second, third = _users(encoder(), batch_of([[(3, 5), (4, 2)]]))[0]

    assert not torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_items_of_one_day_may_swap(variant: str, encoder: Encoders, batch_of: Batches) -> None:
    """There is no position embedding: within a day, order is nothing."""
    model = encoder(variant=variant)
    one = _users(model, batch_of([[(3, 9), (4, 5.9), (5, 5.5), (6, 5.1), (7, 2)]]))
    other = _users(model, batch_of([[(3, 9), (6, 5.9), (5, 5.5), (4, 5.1), (7, 2)]]))

    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_two_items_of_different_days_may_not_swap(encoder: Encoders, batch_of: Batches) -> None:
    """The day matters, and nothing finer."""
    model = encoder()
    one = _users(model, batch_of([[(3, 9.2), (4, 5.9)]]))

    assert torch.equal(one, _users(model, batch_of([[(3, 9.9), (4, 5.1)]])))
    assert not torch.allclose(one, _users(model, batch_of([[(4, 9.2), (3, 5.9)]])), atol=1e-6)


def test_days_count_within_the_window(encoder: Encoders, batch_of: Batches) -> None:
    """Row 0 is t0, 1 the window's first day, the last row the day before the as-of time."""
    model = encoder(history_days=30)
    batch = batch_of([[(3, 500), (4, 30), (5, 29.5), (6, 29), (7, 1.001), (8, 1), (9, 0.001)]])

    assert model._days(batch).tolist() == [1, 1, 1, 2, 29, 30, 30]
    assert model.f_t.weight.shape[0] == 31
    assert model.window.max_days == 30


def test_a_later_as_of_time_moves_all_days(encoder: Encoders, batch_of: Batches) -> None:
    """So vectors are never carried over to a later snapshot."""
    model = encoder()
    batch = batch_of([[(3, 9), (4, 5)]])
    later = replace(batch, as_of=batch.as_of + MICROSECONDS_PER_DAY)

    assert model.depends_on_as_of
    assert not torch.allclose(_users(model, batch), _users(model, later), atol=1e-6)


def test_time_is_no_part_of_items(encoder: Encoders) -> None:
    """v_j is the same whatever the time table holds: it is added in histories only."""
    model = encoder()
    before = model.embed_items(torch.tensor([3, 4]))
    with torch.no_grad():
        model.f_t.weight.normal_()

    assert torch.equal(before, model.embed_items(torch.tensor([3, 4])))


def test_a_masked_event_keeps_its_day_and_loses_its_item(
    encoder: Encoders, batch_of: Batches
) -> None:
    """Pure replacement by the MASK vector; the time embedding is added afterwards."""
    model = encoder(layers=1)
    batch = batch_of([[(3, 9), (MASK, 5)]])
    seen = _users(model, batch)

    assert not torch.equal(seen, _users(model, batch_of([[(3, 9), (4, 5)]])))
    assert not torch.equal(seen, _users(model, batch_of([[(3, 9), (MASK, 6)]])))
    with torch.no_grad():
        model.mask.copy_(model.embed_items(torch.tensor([4]))[0])
    torch.testing.assert_close(
        _users(model, batch), _users(model, batch_of([[(3, 9), (4, 5)]])), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_without_padding_equals_inference_with_it(
    variant: str, encoder: Encoders, batch_of: Batches
) -> None:
    """Packed tokens in train(), padded rows in eval(): the same users and the same steps."""
    model = encoder(variant=variant)
    rows = [[(3 + n, 20.0 - n) for n in range(length)] for length in (4, 0, 1, 7)]
    batch = batch_of(rows, width=12)
    with torch.no_grad():
        padded = model(batch, steps=True)
        packed = model.train()(batch, steps=True)

    torch.testing.assert_close(packed.users, padded.users)
    assert packed.steps is not None and padded.steps is not None
    torch.testing.assert_close(packed.steps, padded.steps)


def test_users_are_the_same_with_and_without_steps(encoder: Encoders, batch_of: Batches) -> None:
    """Without steps the last layer computes [CLS] alone."""
    model = encoder()
    batch = batch_of([[(3, 5), (4, 2)], [(5, 1)]])
    with torch.no_grad():
        torch.testing.assert_close(model(batch, steps=True).users, model(batch).users)


@pytest.mark.parametrize("setting", [{"dim": 10, "heads": 4}, {"variant": "bert"}, {"vectors": 0}])
def test_wrong_settings_are_refused(setting: dict[str, object], encoder: Encoders) -> None:
    with pytest.raises(ValueError, match=r"heads|variant|vectors"):
        encoder(**setting)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_events_alone_get_what_all_would(
    variant: str, encoder: Encoders, batch_of: Batches
) -> None:
    """Asked for the masked events only, users, those events and all gradients are the same."""
    model = encoder(variant=variant).double().train()
    rows = [[(3, 9), (MASK, 8), (4, 7), (MASK, 2)], [(5, 3)], [], [(MASK, 5)]]
    batch = batch_of(rows)
    hidden = batch.codes == MASK
    found = []
    for steps in (True, "masked"):
        model.zero_grad()
        encoded = model(batch, steps=steps)
        assert encoded.steps is not None and encoded.steps.shape == (len(batch.codes), model.dim)
        (encoded.users[[0, 1, 3]].sin().sum() + encoded.steps[hidden].cos().sum()).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((encoded.users, encoded.steps[hidden], grads))

    (users, states, grads), (users2, states2, grads2) = found
    torch.testing.assert_close(users2, users)
    torch.testing.assert_close(states2, states)
    assert grads.keys() == grads2.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grads2[name], grad)


def test_nothing_masked_is_no_trouble(encoder: Encoders, batch_of: Batches) -> None:
    """A batch without a masked event, and one without events, have users all the same."""
    model = encoder().train()
    for rows in ([[(3, 9)], [(4, 1), (5, 0.5)]], [[], []]):
        batch = batch_of(rows)
        torch.testing.assert_close(model(batch, steps="masked").users, model(batch).users)
