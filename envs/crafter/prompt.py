"""The system message for models that don't know the game by training."""

from __future__ import annotations

from envs.crafter.rules import ACHIEVEMENTS, ACTIONS, COLLECT, MAKE, MATERIALS, PLACE
from envs.crafter.tools import TOOL_NAME, format_reply

_TEXT = """\
You play Crafter, a 2D survival game on a grid. Goal: unlock as many different achievements as you can in {turns} \
turns. Each counts once.
Achievements: {achievements}.
Actions: {actions}.
You always face one direction. A move turns you and walks one cell unless the cell is blocked. 'do' acts on the cell \
in front: collect a material, hit a creature, drink water, eat a cow or a ripe plant; on grass it sometimes gives a \
sapling. 'sleep' works when energy is below its maximum; you wake up when rested. Health, food, drink and energy go \
down with time; at health 0 the game ends. Never walk into lava.
Placing, on the cell in front: {placing}.
Making: {making}. 'near' means one of the 8 cells around you.
Collecting: {collecting}.
You are shown: what you face, blocked sides (L R U D), the nearest things with their offset (4L 2D is four left, two \
down), what is low, what you have, what is done.
Reply with 1 to {max_actions} actions, done in order, as JSON and nothing else, for example:
{example}
(or call the tool {tool} with the same list)."""


def system_prompt(max_actions: int, max_turns: int) -> str:
    """Explains game, goal, actions and reply format."""
    return _TEXT.format(
        turns=max_turns,
        achievements=", ".join(ACHIEVEMENTS),
        actions=", ".join(ACTIONS),
        placing="; ".join(f"{action} uses {_amounts(rule.uses)}" for action, rule in PLACE.items()),
        making="; ".join(
            f"{action} uses {_amounts(rule.uses)} near {' and '.join(sorted(str(MATERIALS[i]) for i in rule.nearby))}"
            for action, rule in MAKE.items()
        ),
        collecting="; ".join(
            f"{MATERIALS[material]} needs {_amounts(rule.require)}"
            for material, rule in COLLECT.items()
            if rule.require
        ),
        max_actions=max_actions,
        example=format_reply(["move_right", "do"]),
        tool=TOOL_NAME,
    )


def _amounts(uses: dict[str, int]) -> str:
    return " and ".join(f"{amount} {name}" for name, amount in uses.items())
