"""Runs the review aids on images that strangers' generators drew, in 2 GB."""

from typing import Any

import numpy as np
import torch

from coordinator.intake import limited
from federation.blueprint import envelope
from federation.learning.downstream.pixels import from_bytes
from federation.learning.review.drawn import Drawn, images_per_class
from federation.learning.review.examination import examine
from kit import canonical
from kit.errors import KitError

_MAX_SEALED_BYTES = 64 << 20


def main() -> None:
    """Examine the first of the blueprints in the request among the others."""
    request = limited.request()
    torch.set_num_threads(1)
    try:
        drawn, *others = (_read(request, entry) for entry in request["blueprints"])
        found = examine(drawn, others, seed=request["seed"])
    except KitError as error:
        limited.answer(request, refused=str(error))
        return
    limited.answer(request, findings=[finding.to_table() for finding in found])


def _read(request: dict[str, Any], entry: dict[str, Any]) -> Drawn:
    descriptor = request[entry["file"]]
    sealed = limited.read_open(descriptor, limit=_MAX_SEALED_BYTES, what="drawn images")
    key, context = (canonical.b64decode(entry[name]) for name in ("key", "context"))
    data = np.frombuffer(envelope.decrypt(sealed, key, context), dtype=np.uint8)
    labels = entry["labels"]
    count = images_per_class(len(labels), shard_size=request["shard_size"])
    images = from_bytes(data.reshape(len(labels), count, *request["shape"]))
    return Drawn(name=entry["file"], images=dict(zip(labels, images, strict=True)))


if __name__ == "__main__":
    main()
