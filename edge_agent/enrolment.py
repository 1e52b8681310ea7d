"""Enrolment at the site: keys are made here and never leave; the token's pins start all trust."""

from dataclasses import dataclass
from pathlib import Path

from edge_agent import exchange
from edge_agent.errors import WaitingError
from edge_agent.home import CONFIG, AgentConfig, Home
from kit import canonical, clock, config
from kit.errors import KitError
from kit.files import private_folder, read_limited, write_atomic
from pki import certificates, enrolment, keys, verification
from pki.enrolment import Token
from pki.errors import IdentityError

_TOKEN_COPY = "enrolment-token.json"  # noqa: S105 - a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """Who this home is now."""

    site: str
    federation: str
    pseudonym: str
    certificate_expires: str


def enrol(path: Path, token_file: Path | None, *, epsilon: float, delta: float) -> Enrolled:
    """Enrol this home, or go on with an enrolment that waits for confirmation.

    `epsilon` and `delta` become the lifetime budget of every unit in the privacy ledger.

    Raises:
        WaitingError: the coordinator's operator has to confirm the code in the message.
        KitError: the home is enrolled already, the token is off, or the coordinator refuses.
    """
    home = Home(path.absolute())
    if home.tls_chain.is_file():
        raise KitError(
            f"`{path}` is enrolled already as `{home.config.site}`", hint="choose another --home"
        )
    if home.path.exists() and not (home.path / _TOKEN_COPY).is_file() and any(home.path.iterdir()):
        raise KitError(
            f"`{path}` holds something else than an enrolment", hint="choose another --home"
        )
    token = _token(home, token_file)
    requests = _requests(home)
    code = enrolment.confirmation_code(*requests)
    reply = exchange.enrol(
        token, tls_request=requests[0], signing_request=requests[1], witness_key=requests[2]
    )
    if not reply.confirmed:
        raise WaitingError(
            f"waiting for confirmation; the code of this site is {code}",
            hint="read it out to the coordinator by telephone, then run the same command again",
        )
    return _settle(home, token, reply, epsilon=epsilon, delta=delta)


def _token(home: Home, token_file: Path | None) -> Token:
    kept = home.path / _TOKEN_COPY
    source = token_file or kept
    if token_file is None and not kept.is_file():
        raise KitError("no enrolment has begun here", hint="give the token file with --token")
    data = read_limited(source, limit=enrolment.MAX_TOKEN_BYTES, what="token file")
    token = Token.from_bytes(data)
    if kept.is_file() and read_limited(kept, limit=len(data) + 1, what="token file") != data:
        _discard_keys(home)  # a new token is a new enrolment: its requests need fresh keys
    private_folder(home.path)
    write_atomic(kept, data, mode=0o600)
    return token


def _discard_keys(home: Home) -> None:
    for name in ("tls.key", "signing.key", "witness.key"):
        home.key(name).unlink(missing_ok=True)
    for name in ("tls", "signing"):
        (home.path / "keys" / f"{name}.request").unlink(missing_ok=True)


def _requests(home: Home) -> tuple[bytes, bytes, bytes]:
    if not home.key("witness.key").is_file():
        keys.save(home.key("tls.key"), keys.new_tls_key())
        keys.save(home.key("signing.key"), keys.new_signing_key())
        keys.save(home.key("witness.key"), keys.new_signing_key())
    tls_request = _kept_request(home, "tls", keys.load_tls(home.key("tls.key")))
    signing_request = _kept_request(home, "signing", keys.load_signing(home.key("signing.key")))
    witness = keys.public_bytes(keys.load_signing(home.key("witness.key")))
    return tls_request, signing_request, witness


def _kept_request(home: Home, name: str, key: keys.PrivateKey) -> bytes:
    """Return the one request of a key: ECDSA signs differently each time, the code must not."""
    path = home.key(f"{name}.request")
    if not path.is_file():
        write_atomic(path, certificates.request(key), mode=0o600)
    return read_limited(path, limit=certificates.MAX_REQUEST_BYTES, what="certificate request")


def _settle(
    home: Home, token: Token, reply: exchange.EnrolReply, *, epsilon: float, delta: float
) -> Enrolled:
    root = certificates.from_der(token.pins.root_der)
    now = clock.utc_now()
    tls_chain = certificates.from_pem(reply.tls_chain)
    proven = verification.verify_tls_client(tls_chain, root=root, now=now)
    signing = certificates.from_pem(reply.signing_chain)
    signer = verification.verify_signing(signing, root=root, now=now)
    if (proven.name, proven.federation) != (token.site, token.pins.federation) or signer != proven:
        raise IdentityError("the coordinator issued certificates for another site")
    _check_keys(home, tls_chain[0].public_key(), signing[0].public_key())
    settings = AgentConfig(
        site=token.site,
        federation=token.pins.federation,
        exchange_address=token.exchange_address,
        enrol_address=token.enrol_address,
        lifetime_epsilon=canonical.real(epsilon),
        lifetime_delta=canonical.real(delta),
    )
    write_atomic(home.path / "pins.json", canonical.encode(token.pins.to_table()), mode=0o600)
    config.save(home.path / CONFIG, settings)
    write_atomic(home.signing_chain, reply.signing_chain)
    write_atomic(home.tls_chain, reply.tls_chain)
    (home.path / _TOKEN_COPY).unlink(missing_ok=True)
    return Enrolled(
        site=token.site,
        federation=token.pins.federation,
        pseudonym=reply.pseudonym,
        certificate_expires=clock.rfc3339(tls_chain[0].not_valid_after_utc),
    )


def _check_keys(home: Home, tls_public: object, signing_public: object) -> None:
    own = (
        keys.load_tls(home.key("tls.key")).public_key(),
        keys.load_signing(home.key("signing.key")).public_key(),
    )
    if own != (tls_public, signing_public):
        raise IdentityError("the coordinator issued certificates for other keys than this site's")
