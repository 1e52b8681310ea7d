"""The OpenSSF model signature (OMS 1.0) of a release, for people who do not run this kit.

A Sigstore bundle around a DSSE envelope around an in-toto statement about one file. It chains to
the federation's root, so `model_signing verify certificate MODEL --signature FILE
--certificate_chain ROOT` accepts it anywhere, without a network.

Sites do not go by it: what they trust is the release statement. The stock verifier believes any
leaf of the root and looks at no list of revoked ones, so an outsider who relies on it alone trusts
every certificate of the federation.
"""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from federation import dsse
from federation.release.statement import Artefact
from kit import canonical
from pki import certificates
from pki.keys import TlsKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_WHOLE_FILE = "."  # the name of the only resource where a model is one file


def sign(model: Artefact, name: str, key: TlsKey, chain: tuple[x509.Certificate, ...]) -> bytes:
    """Return the bundle of one model file.

    Args:
        model: the file, by its digest.
        name: the file's name without folders.
        key: P-256; the stock verifier knows no Ed25519.
        chain: the certificate of `key` and those that lead to the root, without it.
    """
    payload = canonical.encode(_statement(model.sha256, name))
    signature = key.sign(dsse.pae(PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    listed = [{"rawBytes": canonical.b64encode(certificates.der(each))} for each in chain]
    return canonical.encode(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "x509CertificateChain": {"certificates": listed},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": canonical.b64encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": canonical.b64encode(signature), "keyid": ""}],
            },
        }
    )


def _statement(digest: str, name: str) -> dict[str, object]:
    root = canonical.digest(bytes.fromhex(digest))  # over the digests of all resources, in order
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
            "resources": [{"name": _WHOLE_FILE, "algorithm": "sha256", "digest": digest}],
        },
    }
