"""How many different images a generator can make, judged from a sample of them; no torch."""

import math

_BISECTIONS = 200


def support_size(samples: int, distinct: int) -> float:
    """Solve D = M (1 - (1 - 1/M)^n) for M, the expected number of distinct among n draws from M.

    Args:
        samples: n, images drawn.
        distinct: D, how many of them differ; D = n gives the least M that n draws can tell.
    """
    if distinct >= samples:
        return samples * samples / 2
    low, high = float(distinct), float(samples * samples)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        expected = -middle * math.expm1(samples * math.log1p(-1 / middle)) if middle > 1 else 1.0
        low, high = (middle, high) if expected < distinct else (low, middle)
    return high
