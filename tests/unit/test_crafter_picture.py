"""Pictures: drawn only when asked for, sent to models that see, refused by the engine.

That their pixels are upstream's is tested in test_crafter_world.py.
"""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.crafter import world as world_module
from envs.crafter.episode import CrafterEpisode
from envs.crafter.picture import data_url, png
from envs.crafter.task import CrafterTask
from envs.crafter.tools import format_reply
from synth_ray.core.errors import ConfigError
from synth_ray.rollout.chat import Chat

PREFIX = "data:image/png;base64,"


def pixels(picture: bytes) -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(picture))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def user_message(episode: CrafterEpisode) -> dict[str, Any]:
    return episode.messages()[-1].as_dict()


def test_the_same_state_gives_the_same_bytes_and_is_not_changed() -> None:
    episode = CrafterTask().open(3, {"use_vision": True}, 10)
    before = episode._world._world.random.getstate()
    assert episode.messages() == episode.messages()
    assert episode.picture(252) == png(episode._world, 252)
    assert episode._world._world.random.getstate() == before


def test_vision_adds_a_picture_to_the_text() -> None:
    episode = CrafterTask().open(3, {"use_vision": True, "image_size": 90}, 10)
    (text, picture) = user_message(episode)["content"]
    assert text == {"type": "text", "text": CrafterTask().open(3, {}, 10).messages()[0].content}
    assert picture["type"] == "image_url"
    url = picture["image_url"]["url"]
    assert url == data_url(episode._world, 90)
    assert url.startswith(PREFIX)
    assert pixels(base64.b64decode(url.removeprefix(PREFIX), validate=True)).shape == (90, 90, 3)


def test_image_only_mode_drops_the_text_and_needs_no_use_vision() -> None:
    config = {"image_only_mode": True, "renderer": "seed", "system_prompt": True}
    episode = CrafterTask().open(3, config, 10)
    (picture,) = user_message(episode)["content"]
    assert picture["image_url"]["url"] == data_url(episode._world, 252)
    system = episode.messages()[0].content
    assert "a picture" in system
    assert "5 x 5" not in system
    episode.step("?", {})
    complaint, _ = user_message(episode)["content"]
    assert complaint["text"].startswith("Problem with your last reply")


def test_text_alone_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("pictures were read from disk")

    monkeypatch.setattr(world_module, "_textures", refuse)
    episode = CrafterTask().open(3, {}, 10)
    episode.step(format_reply(["do"]), {})
    assert isinstance(user_message(episode)["content"], str)
    with pytest.raises(AssertionError):
        CrafterTask().open(3, {"use_vision": True}, 10).messages()


@pytest.mark.parametrize("size", [62, 1081, 100.0])
def test_size_has_bounds(size: Any) -> None:
    with pytest.raises(ConfigError, match="image_size"):
        CrafterTask().open(3, {"image_size": size}, 10)


def test_the_engine_refuses_pictures_instead_of_dropping_them() -> None:
    chat = Chat(SimpleNamespace(eos_token_id=0, pad_token_id=0))
    messages = CrafterTask().open(3, {"use_vision": True}, 10).messages()
    with pytest.raises(ConfigError, match="picture") as caught:
        chat.prompt_ids(messages)
    assert "use_vision" in caught.value.hint
