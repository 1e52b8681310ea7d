"""The line to the coordinator: name, proxy, port, and whose certificate answers.

Each check returns what it saw or raises a `KitError` whose message is the cause and whose hint is
the fix. Nothing of this site is sent: the connections end with the handshake.
"""

import base64
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from urllib.parse import unquote, urlsplit

from cryptography import x509

from kit import canonical, clock
from kit.errors import KitError
from pki import certificates, identity
from pki.errors import IdentityError

TIMEOUT_S = 10.0
MAX_PROXY_REPLY_BYTES = 8192
# OpenSSL's words for why a chain is refused (x509_vfy.h).
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)


def split(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def name(address: str, proxy: str) -> str:
    """Look the coordinator's name up, or the proxy's, which then looks it up itself (DNS)."""
    host = urlsplit(proxy).hostname or "" if proxy else split(address)[0]
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError) as error:
        raise KitError(
            f"the name `{host}` has no address: {getattr(error, 'strerror', None) or error}",
            hint="ask the network's people for its DNS entry; `getent hosts` shows what this"
            " machine finds",
        ) from error
    return f"`{host}` is {', '.join(found)}"


def port(address: str, proxy: str) -> str:
    """Connect, through the proxy if there is one."""
    with connection(address, proxy):
        return f"`{address}` answers" + (" through the proxy" if proxy else "")


@contextmanager
def connection(address: str, proxy: str) -> Iterator[socket.socket]:
    """Yield a TCP connection to the coordinator.

    Raises:
        KitError: nobody answers, or the proxy refuses.
    """
    target = split(address)
    if not proxy:
        with _connect(target, "is `coordinator serve` running there, and is the port right?") as it:
            yield it
        return
    parts = urlsplit(proxy)
    if parts.hostname is None or parts.port is None:
        raise KitError("the proxy of this home is not `http://host:port`")
    hint = "is the proxy named in this home's config.toml still the right one?"
    with _connect((parts.hostname, parts.port), hint) as tunnel:
        _ask_proxy(tunnel, target, _credentials(parts.username, parts.password))
        yield tunnel


def _connect(target: tuple[str, int], hint: str) -> socket.socket:
    shown = f"{target[0]}:{target[1]}"
    try:
        return socket.create_connection(target, timeout=TIMEOUT_S)
    except TimeoutError as error:
        raise KitError(
            f"no answer from `{shown}` within {TIMEOUT_S:g} s",
            hint="a firewall drops it: have one outgoing connection to this address allowed",
        ) from error
    except ConnectionRefusedError as error:
        raise KitError(f"nobody listens on `{shown}`", hint=hint) from error
    except OSError as error:
        raise KitError(f"no way to `{shown}`: {error.strerror}", hint=hint) from error


def _ask_proxy(tunnel: socket.socket, target: tuple[str, int], credentials: str) -> None:
    """HTTP CONNECT (RFC 9110, section 9.3.6)."""
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    where = f"{host}:{target[1]}"
    request = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{credentials}\r\n"
    reply = b""
    try:
        tunnel.sendall(request.encode())
        while b"\r\n\r\n" not in reply and len(reply) < MAX_PROXY_REPLY_BYTES:
            more = tunnel.recv(1)  # a byte more would belong to the coordinator
            if not more:
                break
            reply += more
    except OSError as error:
        raise KitError(
            f"the proxy broke off: {error.strerror or error}",
            hint="does it do HTTP CONNECT? a web filter or SOCKS proxy does not",
        ) from error
    status = canonical.printable(reply.split(b"\r\n")[0].decode(errors="replace"))
    code = status.split(" ")[1] if status.startswith("HTTP/1.") and " " in status else ""
    if code == "407":
        raise KitError(
            "the proxy wants a name and a password",
            hint="put them into this home's config.toml: proxy = http://NAME:PASSWORD@HOST:PORT",
        )
    if not code.startswith("2"):
        raise KitError(
            f"the proxy refuses `{where}`: {status or 'no answer'}",
            hint="have the proxy allow CONNECT to this address and port, without inspection",
        )


def _credentials(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    text = f"{unquote(user)}:{unquote(password or '')}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(text).decode()}\r\n"


def certificate(
    address: str, proxy: str, *, root: x509.Certificate, federation: str, now: datetime
) -> str:
    """Check who answers: TLS 1.3, under the pinned root, for this name, today."""
    leaf = _shown(address, proxy)
    context = ssl.create_default_context(cadata=certificates.pem(root).decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        _handshake(context, address, proxy)
    except ssl.SSLCertVerificationError as error:
        raise explain(error.verify_code, leaf, address, federation=federation, now=now) from error
    return f"TLS 1.3, certified by this federation until {clock.rfc3339(leaf.not_valid_after_utc)}"


def explain(
    code: int, leaf: x509.Certificate, address: str, *, federation: str, now: datetime
) -> KitError:
    """Say why a chain was refused (`code`: OpenSSL's), from the certificate that was shown."""
    host = split(address)[0]
    if code == _EXPIRED:
        return KitError(
            f"the coordinator's certificate expired on {clock.rfc3339(leaf.not_valid_after_utc)};"
            f" it is {clock.rfc3339(now)} here",
            hint="set this machine's clock if that is wrong; else the coordinator has to look"
            " why `serve` did not renew it",
        )
    if code == _NOT_YET:
        return KitError(
            f"the coordinator's certificate holds from {clock.rfc3339(leaf.not_valid_before_utc)};"
            f" it is {clock.rfc3339(now)} here",
            hint="one of the two clocks is wrong: set this machine's by NTP, then compare",
        )
    if code in _OTHER_NAME:
        return KitError(
            f"the coordinator's certificate is not for `{host}` but for {_names(leaf)}",
            hint="use one of these names in config.toml; or the coordinator adds this one to"
            " `hosts` of its own",
        )
    issuer = canonical.printable(leaf.issuer.rfc4514_string())
    if _claims(leaf, federation):
        return KitError(
            f"the coordinator's certificate does not come from the pinned root; issued by"
            f" `{issuer}`",
            hint="was the federation founded anew? compare root fingerprints by telephone; never"
            " replace a pin unasked",
        )
    return KitError(
        f"something between here and the coordinator ends TLS: it shows a certificate issued by"
        f" `{issuer}`",
        hint=f"have `{address}` exempted from TLS inspection; this site talks to nobody else",
    )


def _shown(address: str, proxy: str) -> x509.Certificate:
    """Return the certificate that is shown, whoever's it is: it is looked at, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return certificates.from_der(_handshake(context, address, proxy))
    except IdentityError as error:
        raise KitError(
            "what answers shows no certificate that can be read",
            hint="is this the coordinator's port?",
        ) from error


def _handshake(context: ssl.SSLContext, address: str, proxy: str) -> bytes:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            connection(address, proxy) as plain,
            context.wrap_socket(plain, server_hostname=split(address)[0]) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLEOFError, ConnectionError, TimeoutError) as error:
        raise KitError(
            f"the connection is cut during the handshake: {error.strerror or error}",
            hint="a firewall that inspects TLS, or a load balancer without a server behind it",
        ) from error
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if "VERSION" in reason and "WRONG" not in reason:
            raise KitError(
                f"what answers does not speak TLS 1.3 ({reason})",
                hint="the coordinator does: something older stands in between, or it is another"
                " port",
            ) from error
        raise KitError(
            f"what answers does not speak TLS ({reason})",
            hint="is this the coordinator's port, or does a web server or filter answer here?",
        ) from error


def _claims(leaf: x509.Certificate, federation: str) -> bool:
    return identity.coordinator(federation).uri in _uris(leaf)


def _alternatives(leaf: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _uris(leaf: x509.Certificate) -> list[str]:
    found = _alternatives(leaf)
    return found.get_values_for_type(x509.UniformResourceIdentifier) if found else []


def _names(leaf: x509.Certificate) -> str:
    found = _alternatives(leaf)
    if found is None:
        return "nobody"
    names = [*found.get_values_for_type(x509.DNSName)]
    names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return ", ".join(f"`{canonical.printable(text)}`" for text in names) or "nobody"
