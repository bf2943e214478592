"""Reward strategies: reference values, properties that hold for every episode, and a world's own prices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.crafter.prices import PRICES, SHAPED
from envs.crafter.rules import ACHIEVEMENTS, ITEMS, VITALS
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import RewardParts, RewardSpec, StepFacts
from synth_ray.rollout.prices import Prices, price_list
from synth_ray.rollout.rewards import STRATEGIES, resource_amount, reward
from synth_ray.rollout.tally import Tally

RESOURCES = {
    "wood": 0.10, "sapling": 0.08, "stone": 0.15, "coal": 0.18, "iron": 0.22, "plant": 0.06, "meat": 0.12,
    "drink": 0.07, "food": 0.07, "water": 0.07, "energy": 0.04, "wood_pickaxe": 0.40, "stone_pickaxe": 0.55,
    "iron_pickaxe": 0.75, "wood_sword": 0.35, "stone_sword": 0.50, "iron_sword": 0.70, "furnace": 0.45,
    "table": 0.30, "bow": 0.45,
}  # fmt: skip
COUNTERS = {
    "collect_wood": 0.08, "collect_sapling": 0.06, "collect_stone": 0.10, "collect_coal": 0.12,
    "collect_iron": 0.14, "collect_drink": 0.06, "collect_food": 0.06, "collect_plant": 0.06,
}  # fmt: skip


def facts(*unlocked: str, items: Mapping[str, int] | None = None, counts: Mapping[str, int] | None = None) -> StepFacts:
    return StepFacts(("do",), unlocked, items or {}, counts or {})


def paid(one: StepFacts, spec: RewardSpec, tally: Tally = Tally()) -> RewardParts:  # noqa: B008 (it is frozen)
    return reward(one, tally, spec, price_list(spec, PRICES))


def ledgers(turns: Sequence[StepFacts], spec: RewardSpec, lists: Mapping[str, Prices] = PRICES) -> list[RewardParts]:
    tally, result = Tally(), []
    for one in turns:
        result.append(reward(one, tally, spec, price_list(spec, lists)))
        tally = tally.after(one)
    return result


def total(turns: Sequence[StepFacts], spec: RewardSpec) -> float:
    return math.fsum(parts.total for parts in ledgers(turns, spec))


@pytest.mark.parametrize(
    ("one", "spec", "tally", "expected"),
    [
        (facts("collect_wood", "place_table"), RewardSpec("consistent", 0.5), Tally(), 0.5),
        (facts("collect_wood"), RewardSpec("consistent", -1.0), Tally(), -1.0),
        (facts(), RewardSpec("consistent"), Tally(), 0.0),
        (
            facts("collect_wood"),
            RewardSpec("per_achievement", 1.0, {"collect_wood": 0.8}, {"collect_wood": 0}),
            Tally({"collect_wood": 9}),
            0.8,
        ),
        (
            facts("collect_wood"),
            RewardSpec("per_achievement", 1.0, {"collect_wood": 0.8}, {"collect_wood": 1}),
            Tally({"collect_wood": 1}),
            0.0,
        ),
        (
            facts(
                items={"wood": 2, "diamond": 1, "health": 2, "wood_pickaxe": 1, "food": -1},
                counts={"collect_wood": 2, "collect_diamond": 1},
            ),
            RewardSpec("per_achievement"),
            Tally(),
            0.96,
        ),
        (
            facts("collect_sapling", items={"sapling": 2}, counts={"collect_sapling": 2}),
            RewardSpec("per_achievement", 0.5),
            Tally(),
            0.64,
        ),
    ],
)
def test_reference_values(one: StepFacts, spec: RewardSpec, tally: Tally, expected: float) -> None:
    assert paid(one, spec, tally).total == pytest.approx(expected, abs=1e-12)


def test_the_ledger_names_what_it_pays() -> None:
    one = facts("collect_sapling", items={"sapling": 2, "food": -1}, counts={"collect_sapling": 2})
    assert paid(one, RewardSpec("per_achievement", 0.5)).parts == pytest.approx(
        {"achievement/collect_sapling": 0.5, "inventory/sapling": 0.08, "counter/collect_sapling": 0.06}
    )
    assert paid(one, RewardSpec("shaped", 2.0)).parts == pytest.approx(
        {"achievement/collect_sapling": 2.0, "inventory/sapling": 0.32}
    )
    assert paid(one, RewardSpec("outcome")).parts == {"achievement/collect_sapling": 1.0}
    assert paid(one, RewardSpec("consistent")).parts == {"unlocked_any": 1.0}
    assert paid(replace(one, env_reward=0.9), RewardSpec("env_sparse")).parts == {"env": 0.9}
    assert paid(one, RewardSpec("env_sparse")).parts == {}


def test_shaped_pays_repeated_earnings_up_to_the_limit() -> None:
    spec = RewardSpec("shaped", 1.0, {"collect_wood": 0.8}, {"collect_wood": 3})
    wood = facts(items={"wood": 1}, counts={"collect_wood": 1})
    first = replace(wood, unlocked=("collect_wood",))
    turns = ledgers([first, wood, wood, wood], spec)
    assert [one.parts.get("achievement/collect_wood") for one in turns] == [0.8, 0.8, 0.8, None]
    at_once = facts("collect_wood", items={"wood": 5}, counts={"collect_wood": 5})
    assert paid(at_once, spec).parts["achievement/collect_wood"] == pytest.approx(2.4)
    endless = replace(spec, limits={"collect_wood": 0})
    assert paid(at_once, endless).parts["achievement/collect_wood"] == pytest.approx(4.0)


def test_shaped_pays_no_loops() -> None:
    gain, spend = facts(items={"stone": 1}, counts={"collect_stone": 1}), facts(items={"stone": -1})
    spec = RewardSpec("shaped", limits={"collect_stone": 1})
    assert total([gain, *[spend, gain] * 20], spec) == total([gain], spec) == pytest.approx(1.15)
    farmed = RewardSpec("per_achievement")
    assert total([gain, *[spend, gain] * 20], farmed) == pytest.approx(21 * total([gain], farmed))


def test_events_differ_where_achievements_can_be_lost() -> None:
    again = [facts("door_open"), facts(), facts("door_open")]
    assert total(again, RewardSpec("events")) == 1.0
    assert total(again, RewardSpec("events", event_kind="absolute")) == 2.0


def test_another_world_brings_its_own_prices() -> None:
    lists = {"shaped": Prices(items={"gold": 3.0}, achievements=("find_gold",))}
    one = facts("find_gold", items={"gold": 2, "mud": 5}, counts={"find_gold": 2})
    (ledger,) = ledgers([one], RewardSpec("shaped", weights={"find_gold": 10.0}), lists)
    assert ledger.parts == {"achievement/find_gold": 10.0, "inventory/gold": 6.0}
    assert ledgers([one], RewardSpec("per_achievement"), lists)[0].parts == {"achievement/find_gold": 1.0}


@pytest.mark.parametrize("key", ["weights", "limits"])
def test_shaped_refuses_unknown_achievements(key: str) -> None:
    wrong: dict[str, Any] = {key: {"colect_wood": 1}}
    with pytest.raises(ConfigError, match="no achievement 'colect_wood'") as caught:
        price_list(RewardSpec("shaped", **wrong), PRICES)
    assert "'collect_wood'" in caught.value.hint
    assert price_list(RewardSpec("per_achievement", **wrong), PRICES).items["wood"] == 0.10


def test_unknown_strategies_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown reward strategy") as caught:
        reward(facts(), Tally(), RewardSpec("shapd"), Prices())
    assert caught.value.hint == "did you mean 'shaped'?"


def test_crafters_lists_cover_the_world() -> None:
    classic = PRICES["per_achievement"]
    assert classic.items == {name: RESOURCES.get(name, 0.05) for name in ITEMS}
    assert classic.counters == {name: COUNTERS.get(name, 0.05) for name in ACHIEVEMENTS}
    assert set(SHAPED.items) == set(ITEMS) - set(VITALS)
    assert SHAPED.items["diamond"] > SHAPED.items["iron"]


quick = settings(max_examples=50, deadline=None)
counts = st.dictionaries(st.sampled_from(ACHIEVEMENTS), st.integers(1, 4), max_size=4)
deltas = st.dictionaries(st.sampled_from(ITEMS), st.integers(-3, 3).filter(bool), max_size=6)
numbers = st.floats(-3, 3)
weights = st.dictionaries(st.sampled_from(ACHIEVEMENTS), st.floats(0, 3), max_size=6)
limits = st.dictionaries(st.sampled_from(ACHIEVEMENTS), st.integers(0, 4), max_size=6)
specs = st.builds(
    RewardSpec, st.sampled_from(sorted(STRATEGIES)), numbers, weights, limits, st.sampled_from(["unique", "absolute"])
)


@st.composite
def episodes(draw: st.DrawFn) -> list[StepFacts]:
    """Turns whose unlocks follow from their counters, as in the world itself."""
    seen: set[str] = set()
    turns = []
    for earned, items in draw(st.lists(st.tuples(counts, deltas), max_size=6)):
        fresh = tuple(name for name in earned if name not in seen)
        seen.update(fresh)
        turns.append(StepFacts(("do",), fresh, items, earned, env_reward=draw(st.floats(-1, 1))))
    return turns


def by_the_formula(turns: Sequence[StepFacts], spec: RewardSpec) -> list[float]:
    """``per_achievement`` as written down in docs/rewards.md, with its own tables."""
    paid_so_far: dict[str, int] = {}
    rewards = []
    for one in turns:
        base = 0.0
        for name in one.unlocked:
            most = spec.limits.get(name, 1)
            if most <= 0 or paid_so_far.get(name, 0) < most:
                base += spec.weights.get(name, 1.0)
                paid_so_far[name] = paid_so_far.get(name, 0) + 1
        base += sum(RESOURCES.get(name, 0.05) * up for name, up in one.inventory_delta.items() if up > 0)
        base += sum(COUNTERS.get(name, 0.05) * up for name, up in one.counter_delta.items() if up > 0)
        rewards.append(spec.scale * base)
    return rewards


@quick
@given(episodes(), specs)
def test_per_achievement_equals_the_formula(turns: list[StepFacts], spec: RewardSpec) -> None:
    spec = replace(spec, strategy="per_achievement")
    assert [one.total for one in ledgers(turns, spec)] == pytest.approx(by_the_formula(turns, spec), abs=1e-9)


@quick
@given(episodes(), specs)
def test_a_ledger_sums_to_its_total_and_is_linear_in_the_scale(turns: list[StepFacts], spec: RewardSpec) -> None:
    plain = ledgers(turns, replace(spec, scale=1.0))
    for one, base in zip(ledgers(turns, spec), plain, strict=True):
        assert one.total == math.fsum(one.parts.values())
        assert one.total == pytest.approx(spec.scale * base.total, abs=1e-9)
        assert one.parts.keys() == base.parts.keys()


@quick
@given(episodes(), specs, st.randoms(use_true_random=False))
def test_order_within_a_turn_changes_nothing(turns: list[StepFacts], spec: RewardSpec, random: Any) -> None:
    def shuffled(mapping: Mapping[str, int]) -> dict[str, int]:
        return dict(random.sample(list(mapping.items()), len(mapping)))

    other = [
        replace(
            one,
            unlocked=tuple(random.sample(one.unlocked, len(one.unlocked))),
            inventory_delta=shuffled(one.inventory_delta),
            counter_delta=shuffled(one.counter_delta),
        )
        for one in turns
    ]
    assert [one.total for one in ledgers(turns, spec)] == [one.total for one in ledgers(other, spec)]


@quick
@given(episodes())
def test_the_outcome_ledger_sums_to_the_unique_achievements(turns: list[StepFacts]) -> None:
    unique = len({name for one in turns for name in one.unlocked})
    assert total(turns, RewardSpec("outcome")) == unique
    for kind in ("unique", "absolute"):
        assert total(turns, RewardSpec("events", event_kind=kind)) == unique


@quick
@given(episodes(), specs)
def test_shaped_pays_limits_and_peaks_and_nothing_else(turns: list[StepFacts], spec: RewardSpec) -> None:
    spec = replace(spec, strategy="shaped", scale=1.0)
    sums: dict[str, float] = {}
    for parts in ledgers(turns, spec):
        for name, amount in parts.parts.items():
            sums[name] = sums.get(name, 0.0) + amount
    for name in ACHIEVEMENTS:
        earned = sum(one.counter_delta.get(name, 0) for one in turns)
        most = spec.limits.get(name, 1)
        due = spec.weights.get(name, 1.0) * (earned if most == 0 else min(earned, most))
        assert sums.pop(f"achievement/{name}", 0.0) == pytest.approx(due)
    for item, price in SHAPED.items.items():
        levels = [sum(one.inventory_delta.get(item, 0) for one in turns[: at + 1]) for at in range(len(turns))]
        assert sums.pop(f"inventory/{item}", 0.0) == pytest.approx(price * max([0, *levels]))
    assert sums == {}


@quick
@given(st.dictionaries(st.sampled_from(VITALS), st.integers(-9, 9), min_size=1), episodes())
def test_vitals_never_pay_under_shaped(vitals: dict[str, int], turns: list[StepFacts]) -> None:
    spec = RewardSpec("shaped")
    assert ledgers([*turns, facts(items=vitals)], spec)[-1].parts == {}
    fed = [replace(one, inventory_delta={**one.inventory_delta, **vitals}) for one in turns]
    starved = [
        replace(one, inventory_delta={name: n for name, n in one.inventory_delta.items() if name not in VITALS})
        for one in turns
    ]
    assert total(fed, spec) == total(starved, spec)


@quick
@given(episodes(), specs, st.sampled_from(sorted(SHAPED.items)), st.integers(0, 5))
def test_more_is_never_worth_less(turns: list[StepFacts], spec: RewardSpec, item: str, more: int) -> None:
    spec = replace(spec, scale=1.0)
    richer = [
        replace(one, inventory_delta={**one.inventory_delta, item: one.inventory_delta.get(item, 0) + more})
        for one in turns
    ]
    assert total(richer, spec) >= total(turns, spec) - 1e-9


@quick
@given(episodes(), st.sampled_from(["per_achievement", "shaped"]))
def test_resources_are_what_achievements_are_not(turns: list[StepFacts], name: str) -> None:
    for one in ledgers(turns, RewardSpec(name)):
        rest = sum(amount for part, amount in one.parts.items() if part.startswith("achievement/"))
        assert resource_amount(one.parts) + rest == pytest.approx(one.total)
