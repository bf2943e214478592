"""The base gate and the adapter cache: no request ever runs on weights other than those it names."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from synth_ray.core.errors import AdapterMissing, WrongWeights
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.types import Weights
from synth_ray.runtime.adapter_cache import AdapterCache, HeldAdapter
from synth_ray.runtime.adapters import KEEP_VERSIONS, AdapterBlob, AdapterStore
from synth_ray.runtime.base_gate import BaseGate


def blob(name: str, data: bytes) -> AdapterBlob:
    return AdapterBlob(name, sha256_bytes(data), {"r": 1}, data)


def weights(of: AdapterBlob) -> Weights:
    return Weights("dir", "base", of.name, of.digest)


def test_gate_never_mixes_bases() -> None:
    loaded: list[str] = []
    running: list[str] = []

    async def switch(digest: str, model_dir: str) -> None:
        assert not running
        await asyncio.sleep(0)
        loaded.append(digest)

    async def request(gate: BaseGate, digest: str) -> None:
        async with gate.hold(digest, f"/{digest}"):
            running.append(digest)
            assert set(running) == {digest} == {gate.current}
            await asyncio.sleep(random.random() / 1000)
            running.remove(digest)

    async def main() -> None:
        gate = BaseGate(switch)
        await asyncio.gather(*(request(gate, random.choice("ab")) for _ in range(200)))

    asyncio.run(main())
    assert set(loaded) == {"a", "b"}


def test_gate_after_a_failed_switch_has_no_base() -> None:
    async def switch(digest: str, model_dir: str) -> None:
        if digest == "bad":
            raise WrongWeights("no")

    async def main() -> None:
        gate = BaseGate(switch)
        async with gate.hold("good", ""):
            pass
        with pytest.raises(WrongWeights):
            async with gate.hold("bad", ""):
                pass
        assert gate.current == ""
        async with gate.hold("good", ""):
            assert gate.current == "good"

    asyncio.run(main())


class Engine:
    """Stands for the engine's adapter slots."""

    def __init__(self, store: AdapterStore) -> None:
        self.loaded: dict[int, HeldAdapter] = {}
        self.fetched: list[str] = []
        self._store = store

    async def fetch(self, name: str) -> AdapterBlob:
        self.fetched.append(name)
        await asyncio.sleep(0)
        return self._store.get(name)

    async def load(self, held: HeldAdapter) -> None:
        assert (held.folder / "adapter_model.safetensors").exists()
        assert held.engine_id not in self.loaded
        self.loaded[held.engine_id] = held

    async def unload(self, engine_id: int) -> None:
        del self.loaded[engine_id]


def run_cache(test: Callable[[AdapterCache, Engine, AdapterStore], object]) -> None:
    async def main() -> None:
        store = AdapterStore()
        engine = Engine(store)
        cache = AdapterCache(engine.fetch, engine.load, engine.unload)
        try:
            await test(cache, engine, store)  # type: ignore[misc]
        finally:
            cache.close()

    asyncio.run(main())


def test_an_adapter_is_fetched_once_and_verified() -> None:
    async def test(cache: AdapterCache, engine: Engine, store: AdapterStore) -> None:
        one = blob("run@1", b"one")
        store.publish(one)

        async def use() -> None:
            async with cache.hold(weights(one)) as held:
                assert (held.name, held.digest) == ("run@1", one.digest)
                await asyncio.sleep(0)

        await asyncio.gather(*(use() for _ in range(20)))
        assert engine.fetched == ["run@1"]
        with pytest.raises(WrongWeights):
            async with cache.hold(Weights("dir", "base", "run@1", "another digest")):
                pass
        with pytest.raises(AdapterMissing):
            async with cache.hold(Weights("dir", "base", "run@9", "x")):
                pass

    run_cache(test)


def test_a_folder_outlives_its_users_and_old_versions_go() -> None:
    async def test(cache: AdapterCache, engine: Engine, store: AdapterStore) -> None:
        first = blob("run@0", b"0")
        store.publish(first)
        folders: list[Path] = []
        async with cache.hold(weights(first)) as held:
            for version in range(1, 10):
                one = blob(f"run@{version}", bytes([version]))
                store.publish(one)
                async with cache.hold(weights(one)) as other:
                    folders.append(other.folder)
            assert held.folder.exists()
        assert len(engine.loaded) == KEEP_VERSIONS
        assert not folders[0].exists()
        assert folders[-1].exists()

    run_cache(test)


def test_the_store_refuses_corrupt_and_changed_blobs() -> None:
    store = AdapterStore()
    good = blob("run@1", b"good")
    store.publish(good)
    store.publish(good)
    with pytest.raises(WrongWeights, match="does not match"):
        store.publish(AdapterBlob("run@2", good.digest, {}, b"evil"))
    with pytest.raises(WrongWeights, match="another digest"):
        store.publish(blob("run@1", b"other"))
    assert store.names() == ["run@1"]
