"""Upstream's random stream at a fraction of the price per draw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

State = tuple[Any, ...]


class Rng(random.Random):
    """The stream of ``np.random.RandomState`` out of Python's own Mersenne Twister.

    Both are MT19937 and build a double from two words alike, so after ``load`` every draw agrees bit for bit; a scalar
    draw costs 30 ns here and 0.5 to 3 microseconds there.
    """

    def load(self, source: np.random.RandomState) -> None:
        """Continues where ``source`` stands."""
        self.setstate(state_of(source))

    def numpy_state(self) -> tuple[npt.NDArray[np.uint32], int]:
        """The 624 words and the position, as RandomState.get_state() gives them."""
        words = self.getstate()[1]
        return np.array(words[:-1], np.uint32), words[-1]

    def uniform(self, a: float = 0.0, b: float = 1.0, size: tuple[int, ...] | None = None) -> Any:
        """RandomState.uniform; with ``size`` it is what upstream's renderer draws its night noise with."""
        if size is None:
            return a + (b - a) * self.random()
        words, position = self.numpy_state()
        twin = np.random.RandomState()
        twin.set_state(("MT19937", words, position, 0, 0.0))
        values = twin.uniform(a, b, size)
        self.load(twin)
        return values

    def below(self, count: int) -> int:
        """RandomState.randint(0, count): masked rejection on 32-bit words, no draw at all for one choice."""
        last = count - 1
        if last == 0:
            return 0
        mask = (1 << last.bit_length()) - 1
        while True:
            value = self.getrandbits(32) & mask
            if value <= last:
                return value

    def skip_doubles(self, count: int) -> None:
        """Forgets ``count`` doubles."""
        self.getrandbits(64 * count)


def state_of(source: np.random.RandomState) -> State:
    """A RandomState's state in the form that random.Random.setstate() takes."""
    _, words, position, _, _ = source.get_state(legacy=True)
    return 3, (*np.asarray(words).tolist(), int(position)), None
