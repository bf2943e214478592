"""cluster.yaml is what Ray's launcher accepts, what installs the lock, and closed to the outside."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

Config = dict[str, Any]


@pytest.fixture(scope="module")
def text(checkout: Path) -> str:
    return (checkout / "cluster.yaml").read_text()


@pytest.fixture
def config(text: str) -> Config:
    loaded: Config = yaml.safe_load(text)
    return loaded


def commands(config: Config, *keys: str) -> list[str]:
    return [command for key in keys for command in config[key]]


def start_commands(config: Config) -> list[str]:
    found = commands(config, "head_start_ray_commands", "worker_start_ray_commands")
    return [command for command in found if "ray start" in command]


def gpus(config: Config) -> int:
    nodes = config["available_node_types"].values()
    return sum(int(node["min_workers"]) * int(node["resources"].get("GPU", 0)) for node in nodes)


def test_ray_accepts_it(config: Config) -> None:
    validate_config(prepare_config(deepcopy(config)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("no_such_key", 1, "Additional properties are not allowed"),
        ("head_node_type", "no_such_type", "must be one of"),
        ("max_workers", 1, "is smaller than the sum"),
    ],
)
def test_ray_would_refuse_a_mistake(config: Config, key: str, value: Any, message: str) -> None:
    config[key] = value
    with pytest.raises(Exception, match=message):
        validate_config(prepare_config(config))


def test_it_starts_a_head_without_gpu_and_two_gpus(config: Config) -> None:
    nodes = config["available_node_types"]
    assert "GPU" not in nodes[config["head_node_type"]]["resources"]
    assert gpus(config) == 2
    assert config["max_workers"] == sum(node["max_workers"] for node in nodes.values())


def test_one_large_machine_is_the_same_with_two_numbers_changed(config: Config) -> None:
    nodes = config["available_node_types"]
    nodes["h100"].update(min_workers=0, max_workers=0)
    nodes["h100_box"].update(min_workers=1, max_workers=1)
    validate_config(prepare_config(deepcopy(config)))
    assert gpus(config) == 2


def test_every_start_asks_for_the_token(config: Config) -> None:
    starts = start_commands(config)
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_secrets_are_files_for_the_owner_only(text: str, config: Config) -> None:
    assert config["setup_commands"][0] == "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token ~/.synth-ray.env"
    assert not re.search(r"AKIA|aws_secret|RAY_AUTH_TOKEN=|API_KEY=", text, re.IGNORECASE)


def test_nothing_listens_in_public(text: str, config: Config) -> None:
    (head,) = (command for command in start_commands(config) if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert not re.search(r"(?<!1)0\.0\.0\.0", text)


def test_the_security_group_is_not_left_to_ray(config: Config) -> None:
    for node in config["available_node_types"].values():
        assert len(node["node_config"]["SecurityGroupIds"]) == 1
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_every_machine_installs_the_lock_and_nothing_else(checkout: Path, config: Config) -> None:
    keys = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    installs = [command for command in commands(config, *keys) if "pip install" in command]
    assert [re.findall(r"-r ~/(\S+)", command) for command in installs] == [
        ["requirements/build.txt"],
        ["requirements/gpu.txt"],
    ]
    assert all("--require-hashes" in command and "--no-deps" in command for command in installs)
    assert config["file_mounts"]["~/requirements"] == "requirements"
    lock = (checkout / "requirements" / "gpu.txt").read_text()
    assert "--hash=sha256:" in lock
    assert re.search(r"^boto3==", lock, re.M), "the head starts the workers with it"
