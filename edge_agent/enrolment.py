"""Enrolment at the site: keys are made here and never leave; the token's pins start all trust."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent import acts, exchange, messages
from edge_agent.errors import WaitingError
from edge_agent.home import CONFIG, AgentConfig, Home
from edge_agent.messages import EnrolReply
from edge_agent.renewal import Brought
from kit import canonical, clock, config
from kit.errors import KitError
from kit.files import private_folder, read_document, read_limited, write_atomic
from pki import certificates, enrolment, keys, protecting, tls, tokens, verification
from pki.enrolment import Token
from pki.errors import IdentityError
from pki.tokens import TokenUri

DEFAULT_EPSILON, DEFAULT_DELTA = 8.0, 1e-5
_PENDING = "enrolment"  # the folder of an enrolment that is not settled
_BUDGET = "budget.json"
_PROXY = "proxy"

_TLS_CHAIN, _SIGNING_CHAIN = "tls.pem", "signing.pem"  # of the site's own authority
_TOKEN = "token.json"  # noqa: S105 - a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An enrolment under way: the token, and the requests that prove this home's fresh keys."""

    home: Home
    token: Token
    proxy: str
    lifetime: tuple[str, str]
    tls_request: bytes
    signing_request: bytes
    witness_key: bytes
    tls_chain: bytes = b""
    signing_chain: bytes = b""

    @property
    def pending(self) -> Path:
        """The folder of what is not settled."""
        return self.home.path / _PENDING

    @property
    def code(self) -> str:
        """What this site's operator reads out to the coordinator's."""
        return enrolment.confirmation_code(self.tls_request, self.signing_request, self.witness_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where a site's new keys come from and how they are kept.

    The files sealed, TLS and signing key in a token, or both; or `tls` and `signing` brought with
    their certificates from the site's own authority (A14).
    """

    new_passphrase: Callable[[], str] | None = None
    token: TokenUri | None = None
    tls: Brought | None = None
    signing: Brought | None = None


AS_THEY_ARE = Keeping()  # in clear, or under the passphrase that the home has


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """Who this home is now."""

    site: str
    federation: str
    pseudonym: str
    certificate_expires: str
    lifetime_epsilon: str
    lifetime_delta: str


def enrol(
    path: Path,
    token_file: Path | None,
    *,
    epsilon: float | None,
    delta: float | None,
    keeping: Keeping = AS_THEY_ARE,
    proxy: str | None = None,
) -> Enrolled:
    """Enrol this home, or go on with an enrolment that waits for confirmation.

    An enrolled home may be enrolled again with a new token for the same site (after a revocation
    or an expired certificate): it gets fresh keys and keeps its ledger, runs and receipts.
    `keeping` says what stands between the new keys and a thief of the disk.
    `proxy` is the HTTP CONNECT proxy to go through, from now on; None keeps what the home has.
    `epsilon` and `delta` become the lifetime budget of every unit in the privacy ledger; None keeps
    what the home has, or takes the defaults.

    Raises:
        WaitingError: the coordinator's operator has to confirm the code in the message.
        KitError: the home is another's, the token is off, or the coordinator refuses.
    """
    request = prepare(path, token_file, epsilon=epsilon, delta=delta, keeping=keeping, proxy=proxy)
    asked = messages.enrol_request(request)
    reply = exchange.enrol(request.token, asked, proxy=request.proxy)
    if not reply.confirmed:
        raise WaitingError(
            f"waiting for confirmation; the code of this site is {request.code}",
            hint="read it out to the coordinator by telephone, then run the same command again",
        )
    now = clock.utc_now()
    return settle(request, reply, issued=now, now=now)


def prepare(
    path: Path,
    token_file: Path | None,
    *,
    epsilon: float | None,
    delta: float | None,
    keeping: Keeping = AS_THEY_ARE,
    proxy: str | None = None,
) -> Request:
    """Make (once) the keys and requests of an enrolment; nothing leaves yet.

    Raises:
        KitError: the home is another's, or the token is off.
    """
    home = Home(path.absolute())
    pending = home.path / _PENDING
    _check_home(home, token_file)
    lifetime = _lifetime(home, epsilon, delta)
    token = _token(home, pending, token_file)
    proxy = _proxy(home, pending, proxy)
    if keeping.new_passphrase is not None:
        protecting.protect(home.secrets, keeping.new_passphrase)
    if keeping.tls is not None and keeping.signing is not None:
        _take_brought(pending, keeping.tls, keeping.signing)
    tls_request, signing_request, witness_key = _requests(pending, keeping.token)
    budget = {"epsilon": lifetime[0], "delta": lifetime[1]}
    write_atomic(pending / _BUDGET, canonical.encode(budget), mode=0o600)
    asked = enrolment.request_digest(tls_request, signing_request, witness_key)
    acts.note(home, asked, enrolment.secret_hash(token.secret), witness_key.hex())
    return Request(
        home=home,
        token=token,
        proxy=proxy,
        lifetime=lifetime,
        tls_request=tls_request,
        signing_request=signing_request,
        witness_key=witness_key,
        tls_chain=_brought_chain(pending / _TLS_CHAIN),
        signing_chain=_brought_chain(pending / _SIGNING_CHAIN),
    )


def _take_brought(pending: Path, tls: Brought, signing: Brought) -> None:
    """Keep the keys and chains of a site's own authority for this enrolment."""
    if (pending / _TLS_CHAIN).is_file():
        return
    keys.save(pending / "tls.key", keys.load_tls(tls.key))
    keys.save(pending / "signing.key", keys.load_signing(signing.key))
    keys.save(pending / "witness.key", keys.new_signing_key())
    for name, brought in ((_SIGNING_CHAIN, signing), (_TLS_CHAIN, tls)):
        write_atomic(
            pending / name, certificates.pem(*certificates.read_pem(brought.chain)), mode=0o600
        )


def _brought_chain(path: Path) -> bytes:
    if not path.is_file():
        return b""
    return read_limited(path, limit=certificates.MAX_CHAIN_BYTES, what="certificate")


def _lifetime(home: Home, epsilon: float | None, delta: float | None) -> tuple[str, str]:
    pending = home.path / _PENDING / _BUDGET
    texts = (canonical.real(DEFAULT_EPSILON), canonical.real(DEFAULT_DELTA))
    if home.config_path.is_file():
        texts = (home.config.lifetime_epsilon, home.config.lifetime_delta)
    elif pending.is_file():
        kept = canonical.decode(home.read(pending, "lifetime budget"))
        texts = (kept["epsilon"], kept["delta"])
    texts = (
        texts[0] if epsilon is None else canonical.real(epsilon),
        texts[1] if delta is None else canonical.real(delta),
    )
    figures = [canonical.to_float(text, what="lifetime budget") for text in texts]
    if not 0 < figures[0] <= 100 or not 0 < figures[1] <= 1e-5:
        raise KitError(
            "the lifetime budget wants 0 < epsilon <= 100 and 0 < delta <= 1e-5",
            hint="a larger delta is no privacy worth the name",
        )
    return texts


def is_settled(path: Path) -> bool:
    """Say whether a home is enrolled and no further enrolment is under way."""
    home = Home(path.absolute())
    return home.tls_chain.is_file() and not (home.path / _PENDING / _TOKEN).is_file()


def has_begun(path: Path) -> bool:
    """Say whether a home is this program's: enrolled, or on the way to it."""
    home = Home(path.absolute())
    return home.tls_chain.is_file() or (home.path / _PENDING / _TOKEN).is_file()


def _check_home(home: Home, token_file: Path | None) -> None:
    is_pending = (home.path / _PENDING / _TOKEN).is_file()
    if home.tls_chain.is_file():
        if token_file is None and not is_pending:
            raise KitError(
                f"`{home.path}` is enrolled already as `{home.config.site}`",
                hint="a new --token enrols it again; another --home is another installation",
            )
    elif home.path.exists() and not is_pending and any(home.path.iterdir()):
        raise KitError(
            f"`{home.path}` holds something else than an enrolment", hint="choose another --home"
        )


def _token(home: Home, pending: Path, token_file: Path | None) -> Token:
    kept = pending / _TOKEN
    if token_file is None and not kept.is_file():
        raise KitError("no enrolment has begun here", hint="give the token file with --token")
    source = token_file or kept
    token = read_token(source)
    data = read_limited(source, limit=enrolment.MAX_TOKEN_BYTES, what="token file")
    if home.tls_chain.is_file():
        _check_same_site(home, token)
    if kept.is_file() and home.read(kept, "token file") != data:
        shutil.rmtree(pending)  # a new token is a new enrolment: its requests need fresh keys
    private_folder(home.path)
    private_folder(pending)
    write_atomic(kept, data, mode=0o600)
    return token


def read_token(path: Path) -> Token:
    """Read the file that `coordinator token` wrote.

    Raises:
        KitError: it is missing, or no such file.
    """
    return read_document(
        path,
        Token.from_bytes,
        limit=enrolment.MAX_TOKEN_BYTES,
        what="token file",
        hint="it is the file that the operator made with `coordinator token`",
    )


def _proxy(home: Home, pending: Path, asked: str | None) -> str:
    kept = pending / _PROXY
    if asked is not None:
        write_atomic(kept, tls.check_proxy(asked).encode(), mode=0o600)
    if kept.is_file():
        return home.read(kept, "proxy").decode()
    return home.config.proxy if home.config_path.is_file() else ""


def _check_same_site(home: Home, token: Token) -> None:
    if token.site != home.config.site or token.pins != home.pins:
        raise KitError(
            f"the token is for another site or federation than `{home.config.site}` of this home",
            hint="choose another --home",
        )


def _requests(pending: Path, token: TokenUri | None) -> tuple[bytes, bytes, bytes]:
    if not (pending / "tls.key").is_file():
        keys.save(pending / "tls.key", tokens.new_tls_key(token) if token else keys.new_tls_key())
    if not (pending / "signing.key").is_file():
        fresh = tokens.new_signing_key(token) if token else keys.new_signing_key()
        keys.save(pending / "signing.key", fresh)
    if not (pending / "witness.key").is_file():
        keys.save(pending / "witness.key", keys.new_signing_key())
    tls_request = _kept_request(pending / "tls.request", keys.load_tls(pending / "tls.key"))
    signing_request = _kept_request(
        pending / "signing.request", keys.load_signing(pending / "signing.key")
    )
    witness = keys.public_bytes(keys.load_signing(pending / "witness.key"))
    return tls_request, signing_request, witness


def _kept_request(path: Path, key: keys.PrivateKey) -> bytes:
    """Return the one request of a key: ECDSA signs differently each time, the code must not."""
    if not path.is_file():
        write_atomic(path, certificates.request(key), mode=0o600)
    return read_limited(path, limit=certificates.MAX_REQUEST_BYTES, what="certificate request")


def settle(request: Request, reply: EnrolReply, *, issued: datetime, now: datetime) -> Enrolled:
    """Keep the certificates of a confirmed request; the home is enrolled then.

    `issued` is when the coordinator said so: the TLS certificate, which lives for days, must hold
    then, and may be over where the answer came by post.

    Raises:
        IdentityError: the certificates are another site's, or for other keys.
    """
    home, token, pending = request.home, request.token, request.pending
    tls_chain = certificates.from_pem(reply.tls_chain)
    signing = certificates.from_pem(reply.signing_chain)
    if request.tls_chain:  # of an authority that this site chose: no root of the federation's
        proven = verification.claimed_identity(tls_chain[0])
        signer = verification.claimed_identity(signing[0])
    else:
        root = certificates.from_der(token.pins.root_der)
        proven = verification.verify_tls_client(tls_chain, root=root, now=issued)
        signer = verification.verify_signing(signing, root=root, now=now)
    if (proven.name, proven.federation) != (token.site, token.pins.federation) or signer != proven:
        raise IdentityError("the coordinator issued certificates for another site")
    _check_keys(pending, tls_chain[0].public_key(), signing[0].public_key())
    settings = AgentConfig(
        site=token.site,
        federation=token.pins.federation,
        exchange_address=token.exchange_address,
        enrol_address=token.enrol_address,
        proxy=request.proxy,
        lifetime_epsilon=request.lifetime[0],
        lifetime_delta=request.lifetime[1],
        own_authority=bool(request.tls_chain),
    )
    write_atomic(home.path / "pins.json", canonical.encode(token.pins.to_table()), mode=0o600)
    write_atomic(home.first_checkpoint, token.checkpoint.encode())
    home.keep_schema()
    config.save(home.path / CONFIG, settings)
    for name in ("tls.key", "signing.key", "witness.key"):
        keys.put(pending / name, home.key(name))
    write_atomic(home.signing_chain, reply.signing_chain)
    write_atomic(home.tls_chain, reply.tls_chain)
    shutil.rmtree(pending)
    return Enrolled(
        site=token.site,
        federation=token.pins.federation,
        pseudonym=reply.pseudonym,
        certificate_expires=clock.rfc3339(tls_chain[0].not_valid_after_utc),
        lifetime_epsilon=settings.lifetime_epsilon,
        lifetime_delta=settings.lifetime_delta,
    )


def _check_keys(pending: Path, tls_public: object, signing_public: object) -> None:
    own = (
        keys.load_tls(pending / "tls.key").public_key(),
        keys.load_signing(pending / "signing.key").public_key(),
    )
    if own != (tls_public, signing_public):
        raise IdentityError("the coordinator issued certificates for other keys than this site's")
