"""The system message for models that don't know the game by training."""

from __future__ import annotations

from envs.crafter.config import CrafterConfig
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
You are shown: {shown}.
Reply with 1 to {max_actions} actions, done in order, as JSON and nothing else, for example:
{example}
(or call the tool {tool} with the same list)."""

_TEXTS = {
    "compact": "what you face, blocked sides (L R U D), the nearest things with their offset (4L 2D is four left, two \
down), what is low, what you have, what is done",
    "seed": "the step, your health, your position [x, y] (x grows to the right, y downwards), the direction you face \
as a step [dx, dy], what you have, what is done, and the 5 x 5 cells around you, {map}",
}
_ROWS = "each line a row, the top line the one that is farthest up"
_COLUMNS = "each line a column from up to down, the top line the one that is farthest left"
_PICTURE = "a picture: the 9 x 7 cells around you, you in the middle, and below them what you have, with amounts"


def system_prompt(config: CrafterConfig, max_turns: int) -> str:
    """Explains game, goal, actions, what is shown, and the reply format."""
    return _TEXT.format(
        turns=max_turns,
        shown=_shown(config),
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
        max_actions=config.max_actions_per_turn,
        example=format_reply(["move_right", "do"]),
        tool=TOOL_NAME,
    )


def _shown(config: CrafterConfig) -> str:
    text = _TEXTS[config.renderer].format(map=_COLUMNS if config.transposed_map else _ROWS)
    if config.image_only_mode:
        return _PICTURE
    return f"{text}; and {_PICTURE}" if config.vision else text


def _amounts(uses: dict[str, int]) -> str:
    return " and ".join(f"{amount} {name}" for name, amount in uses.items())
