"""Mutate a working network until it shows nothing, and count what step 23 refuses.

`python -m tests.fuzz.models` makes 1,000 (minutes: each is sampled as at intake). The values stay
within the limits of step 22, so nothing but the samples can give a model away.
"""

import argparse
import random
import secrets
import sys
import time
from collections import Counter

import numpy as np

from coordinator.intake import model_check
from federation.blueprint import limits, weights
from kit.errors import KitError
from tests.coordinator.test_model_check import NETWORK, OUT, STATEMENT, STUDY, tensors
from tests.fuzz.mutation import DEFAULT_SEED

COUNT = 1_000


def fuzz(count: int, *, seed: int) -> Counter[str]:
    """Return how often each reason was given for `count` broken models; "" is none."""
    rng, good, found = random.Random(seed), tensors(), Counter[str]()
    model_check.check(good, STATEMENT, STUDY, b"secret")
    for _ in range(count):
        arrays = {name: array.copy() for name, array in good.items()}
        break_model(rng, arrays)
        weights.write(arrays)  # step 22 would take it
        try:
            model_check.check(arrays, STATEMENT, STUDY, rng.randbytes(32))
        except KitError as error:
            found[str(error)] += 1
        else:
            found[""] += 1
    return found


def break_model(rng: random.Random, arrays: weights.Arrays) -> None:
    """Set one to three layers to values that no training reaches."""
    largest = limits.MAX_ABS_WEIGHT
    match rng.randrange(3):
        case 0:  # the same grey for every pixel
            arrays[f"{OUT}.weight"][:] = rng.uniform(-1e-3, 1e-3)
            arrays[f"{OUT}.bias"][:] = rng.choice((-1, 1)) * rng.uniform(50, largest)
        case 1:  # overflow on the way
            for array in arrays.values():
                array[:] = rng.choice((-1, 1)) * rng.uniform(0.3, 1) * _bound(array)
        case _:  # the bright middle and dark edge of a convolution's padding, for every seed
            arrays["unet.conv_norm_out.weight"][:] = 0
            arrays["unet.conv_norm_out.bias"][:] = level = rng.uniform(1, 4)
            inner = 9 * arrays[f"{OUT}.weight"].shape[1] * level / (1 + np.exp(-level))
            share = rng.uniform(0.75, 0.95)  # of the middle's sum: more than an edge's 6 / 9
            each = rng.uniform(0.2, 0.98) * largest / (inner * share)
            arrays[f"{OUT}.weight"][:] = each
            arrays[f"{OUT}.bias"][:] = -each * inner * share


def _bound(array: np.ndarray) -> float:
    """Return the largest value that step 22 lets every entry of a tensor have."""
    return 0.98 * min(limits.MAX_ABS_WEIGHT, limits.MAX_TENSOR_NORM / array.size**0.5)


def main() -> int:
    """Fuzz and print what was said; 0 only if every broken model was refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="0 draws one")
    options = parser.parse_args()
    seed, began = options.seed or secrets.randbits(32), time.monotonic()
    found = fuzz(options.count, seed=seed)
    for reason, times in found.most_common():
        print(f"step 23: {times:>6}  {reason or 'accepted'}")
    print(
        f"made {options.count} for {NETWORK.preset}; seed {seed}; {time.monotonic() - began:.0f} s"
    )
    return 1 if found[""] else 0


if __name__ == "__main__":
    sys.exit(main())
