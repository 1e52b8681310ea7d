"""Byte checks of a received payload, without torch, in 256 MB: steps 16 and 18 to 22.

Decrypts, compares every digest, checks tensors against the exact table, and seals the payload
again under the blueprint's own key. Plaintext never touches a disk.
"""

from coordinator.intake import limited
from federation.blueprint import envelope, limits, weights
from federation.blueprint.statement import Statement
from kit import canonical
from kit.errors import KitError


def main() -> None:
    """Check one payload."""
    request = limited.request()
    statement = Statement.from_bytes(canonical.b64decode(request["statement"]))
    try:
        ciphertext = limited.read_open(
            request["ciphertext"], limit=2 * limits.MAX_PAYLOAD_BYTES, what="payload"
        )
        key = canonical.b64decode(request["content_key"])
        plaintext = envelope.open_payload(ciphertext, key, statement)
        del ciphertext
        envelope.check_files(
            plaintext,
            statement,
            weights.table_from_json(request["table"]),
            embedding=request["embedding"],
            classes=request["classes"],
        )
    except KitError as error:
        limited.answer(request, refused=str(error))
        return
    own_key = canonical.b64decode(request["blueprint_key"])
    context = canonical.b64decode(request["blueprint_context"])
    sealed = envelope.encrypt(plaintext, own_key, context)
    try:
        limited.write_open(request["sealed"], sealed)
    except KitError as error:  # the disk's doing, not the payload's: it waits
        limited.answer(request, failed=str(error))
        return
    limited.answer(request, passed=True)


if __name__ == "__main__":
    main()
