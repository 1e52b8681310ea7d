"""`edge-agent enroll` and `renew`: this site's place in the federation."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import FromFile, HomeDir, Json, ToFile, one_way
from kit import clock, door
from kit.errors import KitError

ProtectKeys = Annotated[
    bool, typer.Option("--protect-keys", help="Put the keys under a passphrase from the start.")
]
TlsCertificate = Annotated[
    Path | None, typer.Option(help="A TLS chain (PEM, leaf first) of this site's own authority.")
]
TlsKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
SigningCertificate = Annotated[
    Path | None, typer.Option(help="A document-signing chain of this site's own authority.")
]
SigningKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]


def enroll(
    ctx: typer.Context,
    home: HomeDir,
    token: Annotated[
        Path | None, typer.Option("--token", help="The token file from the coordinator.")
    ] = None,
    lifetime_epsilon: Annotated[
        float | None,
        typer.Option(help="Lifetime privacy budget of every patient here: epsilon; first 8."),
    ] = None,
    lifetime_delta: Annotated[
        float | None, typer.Option(help="Its delta, at most 1e-5; first 1e-5.")
    ] = None,
    protect_keys: ProtectKeys = False,
    hsm: Annotated[
        str | None,
        typer.Option(
            help="Make TLS and signing key in this token: pkcs11:token=NAME?module-path=FILE."
        ),
    ] = None,
    officer: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PUBLIC-KEY (hexadecimal) of who signs what leaves; repeat. Set once."
        ),
    ] = None,
    without_outbound_approval: Annotated[
        bool,
        typer.Option(
            "--without-outbound-approval",
            help="One person alone may send from this site. Set once.",
        ),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(help="An HTTP CONNECT proxy to go through, as http://host:port; kept."),
    ] = None,
    to_file: ToFile = None,
    from_file: FromFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    signing_certificate: SigningCertificate = None,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Enrol this site; run it again after the coordinator confirmed the code."""
    from edge_agent import bringing, contact, enrolment, outbound
    from edge_agent.errors import UnreachableError
    from edge_agent.exchange import Exchange
    from edge_agent.home import Home
    from pki.tokens import TokenUri

    policy = outbound.new_policy(officer or (), off=without_outbound_approval)
    if policy is not None and token is None and enrolment.is_settled(home):
        outbound.set_policy(Home.open(home), policy)
        door.emit(policy, as_json=as_json)
        return
    keeping = enrolment.Keeping(
        new_passphrase=(lambda: ctx.obj.new("this site's keys")) if protect_keys else None,
        token=TokenUri.parse(hsm) if hsm else None,
        tls=bringing.pair(tls_certificate, tls_key, what="TLS"),
        signing=bringing.pair(signing_certificate, signing_key, what="signing"),
    )
    if one_way(to_file, from_file):
        from edge_agent import stick

        request = enrolment.prepare(
            home, token, epsilon=lifetime_epsilon, delta=lifetime_delta, keeping=keeping
        )
        if policy is not None:
            outbound.set_policy(Home(home.absolute()), policy)
        door.emit(stick.enrol(request, to_file, from_file, now=clock.utc_now()), as_json=as_json)
        return
    try:
        result = enrolment.enrol(
            home,
            token,
            epsilon=lifetime_epsilon,
            delta=lifetime_delta,
            keeping=keeping,
            proxy=proxy,
        )
    finally:
        if policy is not None and enrolment.has_begun(home):
            outbound.set_policy(Home(home.absolute()), policy)
    door.emit(result, as_json=as_json)
    enrolled = Home.open(home)
    try:
        with Exchange.open(enrolled) as exchange:
            contact.contact(enrolled, exchange)
    except UnreachableError as error:
        hint = "the enrolment is done; `edge-agent status` fetches the studies once it answers"
        raise UnreachableError(str(error), hint=hint) from error


def renew(
    home: HomeDir,
    reclaim: Annotated[
        bool,
        typer.Option("--reclaim", help="Take every other TLS certificate of this site out of use."),
    ] = False,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    signing_certificate: SigningCertificate = None,
    signing_key: SigningKey = None,
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Renew this site's certificates now; or put those of its own authority in place."""
    from edge_agent import bringing, renewal, stick
    from edge_agent.home import Home

    agent = Home.open(home)
    tls = bringing.pair(tls_certificate, tls_key, what="TLS")
    signing = bringing.pair(signing_certificate, signing_key, what="signing")
    if to_file is not None:
        if tls or reclaim:
            raise KitError(
                "without a line no TLS certificate is in use",
                hint="give the signing certificate alone, or nothing",
            )
        written = stick.renew(agent, to_file, signing=signing, now=clock.utc_now())
        door.emit(written, as_json=as_json)
        return
    bringing.renew(agent, tls=tls, signing=signing, reclaim=reclaim, now=clock.utc_now())
    door.emit(renewal.standing(agent), as_json=as_json)
