"""Several representations side by side: whose numbers are whose, and what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unirep_feast.errors import CheckpointError, PluginError, SpecError
from unirep_feast.testing import Recipe, World, registered
from unirep_feast_baselines.concat import ConcatEncoder

RHYTHM: dict[str, Any] = {"name": "rhythm", "encoder": {"name": "baselines.aggregates"}}
BAG: dict[str, Any] = {
    "name": "items",
    "encoder": {"name": "baselines.tfidf", "settings": {"dim": 6}},
}
LEARNT: dict[str, Any] = {
    "name": "learnt",
    "plugin": "baselines.sumn",
    "encoder": {"settings": {"dim": 8, "max_events": 6}},
    "training": {"max_steps": 3},
}


def concat(*members: dict[str, Any], **settings: Any) -> Recipe:
    given = {"members": list(members), **settings}
    return registered("baselines.concat", settings={"encoder": given})


def build(world: World, *members: dict[str, Any], **settings: Any) -> ConcatEncoder:
    encoder = concat(*members, **settings).build(world.past).encoder
    assert isinstance(encoder, ConcatEncoder)
    return encoder


def test_blocks_lie_one_behind_the_other(world: World) -> None:
    """In the order of the members, without a gap."""
    encoder = build(world, BAG, LEARNT, RHYTHM)
    width = encoder.dim

    assert encoder.blocks == {"items": (0, 6), "learnt": (6, 14), "rhythm": (14, width)}


def test_an_unnormalised_block_is_the_members_own_vector(world: World) -> None:
    """What the baseline alone gives, to the last bit."""
    alone = registered("baselines.tfidf", settings={"encoder": {"dim": 6}}).build(world.past)
    encoder = build(world, LEARNT, {**BAG, "normalise": "none"})
    batch = world.past.histories(torch.nonzero(world.past.lengths).flatten())
    start, stop = encoder.blocks["items"]

    assert torch.equal(encoder(batch).users[:, 0, start:stop], alone.encoder(batch).users[:, 0])


@pytest.mark.parametrize("normalise", ["block", "number"])
def test_normalised_over_the_users_before_the_cut_off(world: World, normalise: str) -> None:
    """Mean 0; deviation 1 of every number, or of the whole block with its own proportions."""
    encoder = build(world, {**BAG, "normalise": normalise}, equal=False)
    users = encoder(world.past.histories(torch.nonzero(world.past.lengths).flatten())).users[:, 0]
    variance = users.var(0, unbiased=False)

    torch.testing.assert_close(users.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance.mean(), torch.tensor(1.0))
    assert (float(variance.std()) < 1e-4) == (normalise == "number")


def test_blocks_weigh_the_same_in_a_cosine(world: World) -> None:
    """However wide they are: equal mean squared length over users."""
    encoder = build(world, RHYTHM, BAG, LEARNT)
    users = encoder(world.past.histories(torch.nonzero(world.past.lengths).flatten())).users[:, 0]
    squares = [float(users[:, a:b].square().sum(1).mean()) for a, b in encoder.blocks.values()]

    assert squares == pytest.approx([squares[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("normalise", ["block", "number", "none"])
def test_item_vectors_score_as_their_member_does(world: World, normalise: str) -> None:
    """A product with the concatenation's items is the member's own score, up to one factor."""
    member = {**BAG, "items": True, "normalise": normalise}
    alone = registered("baselines.tfidf", settings={"encoder": {"dim": 6}}).build(world.past)
    encoder = build(world, RHYTHM, member)
    batch = world.past.histories(torch.nonzero(world.past.lengths).flatten())
    codes = torch.arange(3, len(world.past.items))
    found = encoder(batch).users[:, 0] @ encoder.embed_items(codes).T
    wanted = alone.encoder(batch).users[:, 0] @ F.normalize(alone.encoder.embed_items(codes)).T

    assert "items" in encoder.provides
    torch.testing.assert_close(found / found.std(), wanted / wanted.std(), atol=1e-4, rtol=1e-4)


def test_without_members_that_give_items_there_are_none(world: World) -> None:
    """Then nothing is published for items; a member that has none cannot give them."""
    assert "items" not in build(world, RHYTHM, BAG).provides
    with pytest.raises(SpecError, match=r"member rhythm: .* found one without item vectors"):
        build(world, BAG, {**RHYTHM, "items": True})


def test_a_member_does_not_depend_on_the_others(world: World) -> None:
    """Neither its weights nor its draws: a block is the same beside whomever it stands."""
    one, two = build(world, LEARNT, equal=False), build(world, BAG, RHYTHM, LEARNT, equal=False)
    batch = world.past.histories(world.past.all_users())
    start, stop = two.blocks["learnt"]

    assert torch.equal(one(batch).users[:, 0], two(batch).users[:, 0, start:stop])


def test_a_member_is_trained(world: World) -> None:
    """By its own objective and sampler, as many steps as it is given."""

    def weights(steps: int) -> torch.Tensor:
        member = {**LEARNT, "training": {"max_steps": steps}}
        query: torch.Tensor = build(world, member).state_dict()["members.of_learnt.query"]
        return query

    assert not torch.equal(weights(1), weights(4))


def test_the_window_is_the_widest_and_each_sees_its_own(world: World) -> None:
    """A member of six events has the vector of the last six, whatever the others look at."""
    narrow, wide = build(world, LEARNT, equal=False), build(world, BAG, LEARNT, equal=False)
    assert narrow.window.max_events == 6 and wide.window.max_events is None
    rows = torch.nonzero(world.past.lengths > 6).flatten()
    assert len(rows)
    clipped = world.past.limit(narrow.window).histories(rows)
    start, stop = wide.blocks["learnt"]

    torch.testing.assert_close(
        wide(world.past.histories(rows)).users[:, 0, start:stop], narrow(clipped).users[:, 0]
    )


def test_who_is_in_no_window_has_zeros(world: World) -> None:
    """The mean, and not the vector of an empty history."""
    encoder = build(world, {**BAG, "normalise": "block"})
    batch = world.past.histories(world.past.all_users())
    empty = batch.lengths == 0
    assert bool(empty.any())

    assert torch.equal(encoder(batch).users[empty], torch.zeros(int(empty.sum()), 1, 6))


def test_depends_on_time_if_a_member_does(world: World) -> None:
    """So that nothing is carried over to a later T that a member would see change."""
    assert build(world, BAG, RHYTHM).depends_on_as_of
    assert not build(world, BAG, LEARNT).depends_on_as_of


def test_items_of_later_catalogues_reach_the_members(world: World) -> None:
    """``bind`` goes to all of them: a word model reads titles of items it never met."""
    words = {"name": "words", "encoder": {"name": "baselines.tfidf", "settings": {"dim": 4}}}
    words["encoder"]["settings"]["terms"] = "words"  # type: ignore[index]
    encoder = build(world, words)
    batch = world.past.histories(torch.nonzero(world.past.lengths).flatten())
    appended = batch.with_codes(torch.full_like(batch.codes, len(world.past.items) - 1))

    assert float(F.normalize(encoder(appended).users[0, 0], dim=-1).abs().sum()) > 0


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([BAG, {**LEARNT, "name": "items"}], SpecError, "two are called items"),
        ([{"name": "a", "encoder": {"name": "nobody"}}], PluginError, "encoder 'nobody'"),
        ([{"name": "a"}], SpecError, "member a: give `plugin`"),
        (
            [{**LEARNT, "training": {"until": "2020-01-01"}}],
            SpecError,
            "training.until is the representation's",
        ),
        ([{**LEARNT, "training": {"steps": 3}}], SpecError, "unknown key `training.steps`"),
        (
            [{**BAG, "encoder": {"name": "baselines.tfidf", "settings": {"size": 3}}}],
            SpecError,
            "member items: 2 problems: encoder.settings: unknown key `size`",
        ),
    ],
    ids=["names", "plugin", "parts", "until", "training", "settings"],
)
def test_wrong_members_are_refused(
    world: World, members: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    """In one line, before anything is fitted."""
    with pytest.raises(error) as caught:
        concat(*members).build(world.past)

    assert message in str(caught.value)


def test_another_version_of_a_members_plugin_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one version are not read by another."""
    recipe = concat(BAG)
    prepared = recipe.prepared(world.past)
    from unirep_feast import members

    look_up = members.look_up

    def newer(configs: Any) -> Any:
        found = look_up(configs)
        for member in found:
            part = member.choice.parts["encoder"]
            member.choice.parts["encoder"] = replace(
                part, plugin=replace(part.plugin, version="9.9")
            )
        return found

    monkeypatch.setattr(members, "look_up", newer)
    with pytest.raises(CheckpointError, match=r"member 'items' was fitted by .*train anew"):
        recipe.build(world.past, prepared)
