"""The combat model of the stand-in for StarCraft II, which is plain Python; no result here is a StarCraft result."""

from __future__ import annotations

import pytest
from sc2_standin import Knobs
from sc2_standin.combat import ALLY, ENEMY, Battle, Order
from sc2_standin.maps import GENERATED, MAPS
from sc2_standin.scenario import Scenario
from sc2_standin.units import FIRST_ALLY_TYPE, KINDS

MARINE, MEDIVAC = KINDS["Marine"], KINDS["Medivac"]


def duel(attacker: str, victim: str, apart: float = 1.0):
    """A battle in which one unit attacks another that does nothing."""
    battle = Battle(seed=100)
    one, other = battle.spawn(KINDS[attacker], ALLY, 10, 10), battle.spawn(KINDS[victim], ENEMY, 10 + apart, 10)
    one.order = Order("attack", target=other.tag)
    return battle, one, other


def play(name: str, orders, damage: float, seed: int) -> int:
    """The side that is left at the end of a battle on a v1 map, where ``orders(scenario)`` are given every 8 loops."""
    scenario = Scenario(name, seed, damage)
    for _ in range(2000):
        if scenario.battle.loop % 8 == 0:
            orders(scenario)
        scenario.advance()
        for owner in (ALLY, ENEMY):
            if not scenario.battle.team(owner):
                return ALLY + ENEMY - owner
    raise AssertionError("nobody won in 2,000 loops")


def attack_nearest(scenario: Scenario) -> None:
    for unit in scenario.battle.team(ALLY):
        unit.order = Order("attack", target=min(scenario.battle.team(ENEMY), key=unit.gap).tag)


def focus_fire(scenario: Scenario) -> None:
    target = min(scenario.battle.team(ENEMY), key=lambda unit: (unit.life + unit.shield, unit.tag))
    for unit in scenario.battle.team(ALLY):
        unit.order = Order("attack", target=target.tag)


@pytest.mark.parametrize(
    ("attacker", "victim", "life", "shield"),
    [
        ("Marine", "Zergling", 35 - 6, 0),
        ("Marine", "Marauder", 125 - (6 - 1), 0),  # armour 1
        ("Marauder", "Stalker", 80, 80 - 20),  # 10 and 10 against armour-plated; shields have no armour
        ("Zealot", "SpineCrawler", 300 - 2 * (8 - 2), 0),  # armour 2 on each of two hits
        ("Zergling", "SpineCrawler", 300 - (5 - 2), 0),
    ],
)
def test_a_volley_does_the_published_damage_less_armour_on_each_hit(attacker, victim, life, shield):
    battle, _, other = duel(attacker, victim)
    battle.advance()
    assert (other.life, other.shield) == pytest.approx((life, shield), abs=0.02)


@pytest.mark.parametrize(("attackers", "volleys"), [(1, 8), (3, 3), (8, 1)])
def test_a_marine_dies_of_the_eighth_shot(attackers, volleys):
    battle = Battle(seed=100)
    victim = battle.spawn(MARINE, ENEMY, 10, 14)
    for i in range(attackers):
        battle.spawn(MARINE, ALLY, 6 + i, 10).order = Order("attack", target=victim.tag)
    while victim.tag in battle.units:
        battle.advance()
    least, most = (volleys - 1) * (MARINE.period - 1) + 1, (volleys - 1) * (MARINE.period + 3) + 1
    assert least <= battle.loop <= most


def test_a_medivac_heals_and_pays_a_third_in_energy_but_not_what_flies():
    battle = Battle(seed=100)
    medivac, marine = battle.spawn(MEDIVAC, ALLY, 10, 10), battle.spawn(MARINE, ALLY, 12, 10)
    marine.life, medivac.order = 20.0, Order("heal", target=marine.tag)
    for _ in range(20):
        battle.advance()
    assert marine.life == pytest.approx(20 + 20 * 0.5625)
    assert medivac.energy == pytest.approx(50 + 20 * 0.0352 - 20 * 0.5625 / 3)
    assert not medivac.can_heal(battle.spawn(MEDIVAC, ALLY, 14, 10))
    medivac.energy, before = 0.0, marine.life
    battle.advance()
    assert marine.life - before == pytest.approx(3 * 0.0352)


def test_a_baneling_takes_everyone_near_with_it_and_so_does_one_that_is_shot():
    for shot in (False, True):
        battle, one, other = duel("Baneling", "Zealot")
        near, far = battle.spawn(KINDS["Zergling"], ENEMY, 11, 11.5), battle.spawn(KINDS["Zergling"], ENEMY, 11, 16)
        if shot:
            one.order, one.life = None, 1.0
            battle.spawn(MARINE, ENEMY, 14, 10).order = Order("attack", target=one.tag)
        assert {unit.tag for unit in battle.advance()} == {one.tag, near.tag}
        assert other.shield == 50 - 35
        assert far.life == 35


def test_shields_come_back_after_a_rest():
    battle, _, zealot = duel("Marine", "Zealot")
    battle.advance()
    battle.remove([tag for tag in battle.units if tag != zealot.tag])
    assert zealot.shield == 44
    for _ in range(159):
        battle.advance()
    assert zealot.shield == 44
    for _ in range(80):
        battle.advance()
    assert zealot.shield == 50


def test_a_spine_crawler_stays_where_it_is_and_shoots_what_comes_into_range():
    scenario = Scenario("2s_vs_1sc", seed=100)
    (spine,) = scenario.battle.team(ENEMY)
    for _ in range(50):
        scenario.advance()
    assert (spine.x, spine.y) == pytest.approx((13.92, 20.04), abs=0.15)
    assert all(unit.shield == 80 for unit in scenario.battle.team(ALLY))
    focus_fire(scenario)
    for _ in range(50):
        scenario.advance()
    assert min(unit.shield for unit in scenario.battle.team(ALLY)) < 80


def test_wins_and_losses_are_both_within_reach():
    seeds = range(100, 106)
    assert [play("3m", lambda scenario: None, 1.0, seed) for seed in seeds] == [ENEMY] * 6  # allies are passive
    assert [play("3m", focus_fire, 0.5, seed) for seed in seeds] == [ALLY] * 6
    assert {play("3m", attack_nearest, 1.0, seed) for seed in seeds} == {ALLY, ENEMY}


@pytest.mark.parametrize("name", sorted(MAPS))
def test_battles_stay_on_the_map_without_overlap_and_depend_on_the_seed_alone(name):
    def run(seed):
        scenario = Scenario(name, seed)
        for _ in range(40):
            scenario.advance()
        return scenario.battle

    battle = run(100)
    for unit in battle.units.values():
        assert unit.kind.radius <= unit.x <= 32 - unit.kind.radius
        assert unit.kind.radius <= unit.y <= 32 - unit.kind.radius
        assert all(
            unit.gap(u) > -0.4 for u in battle.units.values() if u is not unit and u.kind.flies == unit.kind.flies
        )
    assert repr(battle.units) == repr(run(100).units)
    assert name == GENERATED or repr(battle.units) != repr(run(101).units)


@pytest.mark.parametrize("delay", [0, 5])
def test_both_teams_stand_again_once_nobody_is_left_and_not_before(delay):
    scenario = Scenario("3m", seed=100, respawn_delay=delay)
    battle, first = scenario.battle, set(scenario.battle.units)
    scenario.kill = [unit.tag for unit in battle.team(ALLY)]
    scenario.advance()
    assert [len(battle.team(ALLY)), len(battle.team(ENEMY))] == [0, 3]
    scenario.kill = list(battle.units)
    for _ in range(delay):
        scenario.advance()
        assert not battle.units
    scenario.advance()
    assert [len(battle.team(ALLY)), len(battle.team(ENEMY))] == [3, 3]
    assert not first & set(battle.units)


def test_the_flat_map_is_empty_until_units_are_created_and_its_enemies_attack():
    scenario = Scenario(GENERATED, seed=100)
    scenario.create = [(FIRST_ALLY_TYPE + 8, ALLY, 8, 16), (105, ENEMY, 24, 16)]
    assert not scenario.battle.units
    scenario.advance()
    ally, enemy = scenario.battle.units.values()
    assert ally.kind is enemy.kind is KINDS["Zergling"]
    for _ in range(16):
        scenario.advance()
    assert ally.x == 8
    assert enemy.x < 23


def test_knobs_survive_the_environment(monkeypatch, tmp_path):
    knobs = Knobs(0.5, 3, 4, 5, 1, 2, str(tmp_path / "log"), 7)
    for name, value in knobs.environ().items():
        monkeypatch.setenv(name, value)
    assert Knobs.from_environ() == knobs
