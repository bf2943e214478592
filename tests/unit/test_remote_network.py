"""Pinned connections: a name is looked up once per connection, and only public addresses count as public."""

import asyncio

import pytest
from httpcore2 import ConnectError

from synth_ray.rollout.remote.network import ForbiddenAddress, PinnedNetwork, is_public, resolve
from tests.unit.fake_provider import fake_provider

NOT_PUBLIC = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    "2002:a00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "104.18.7.192", "2606:4700::6812:7c0", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


class Names:
    """A resolver whose answer changes from call to call."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.calls = list(answers), 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.calls += 1
        return self.answers.pop(0)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], ["::1"]])
def test_a_name_with_an_address_that_is_not_public_is_never_connected_to(addresses: list[str]) -> None:
    with fake_provider() as server, pytest.raises(ForbiddenAddress, match=r"vendor\.test"):
        asyncio.run(PinnedNetwork(False, Names(addresses)).connect_tcp("vendor.test", server.port, 1.0))


def test_the_socket_goes_to_the_address_that_was_looked_at() -> None:
    async def main(port: int) -> None:
        names = Names(["127.0.0.1"], ["8.8.8.8"])
        stream = await PinnedNetwork(True, names).connect_tcp("listed.test", port, 2.0)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        assert names.calls == 1
        await stream.aclose()

    with fake_provider() as server:
        asyncio.run(main(server.port))


def test_the_next_address_is_tried() -> None:
    async def main(port: int) -> None:
        stream = await PinnedNetwork(True, Names(["127.0.0.2", "127.0.0.1"])).connect_tcp("listed.test", port, 2.0)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        await stream.aclose()

    with fake_provider() as server:
        asyncio.run(main(server.port))


def test_a_name_without_an_address_is_a_connect_error() -> None:
    with pytest.raises(ConnectError):
        asyncio.run(PinnedNetwork(False, Names([])).connect_tcp("vendor.test", 1, 1.0))


def test_the_system_resolver() -> None:
    assert asyncio.run(resolve("127.0.0.1", 80)) == ["127.0.0.1"]
    with pytest.raises(ConnectError, match=r"no-such-host\.invalid"):
        asyncio.run(resolve("no-such-host.invalid", 80))
