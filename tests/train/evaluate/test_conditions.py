from __future__ import annotations

import numpy as np

from edge_ser_train.evaluate.conditions import quiet_ends


def test_quiet_ends_are_what_lies_around_the_speech() -> None:
    x = (np.random.default_rng(2).standard_normal((200, 128)) * 5 - 80).astype(np.float32)
    x[60:150] += 40
    assert quiet_ends(x) == (60, 50)
    assert quiet_ends(np.zeros((60, 128), dtype=np.float32)) == (0, 0)
