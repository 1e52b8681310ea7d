import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import FormatError
from pki import identity
from pki.errors import IdentityError
from pki.identity import Identity, Role

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_an_identity_reads_back_from_its_uri(federation, name):
    for who in (identity.site(federation, name), identity.coordinator(federation)):
        assert Identity.parse(who.uri) == who


def test_the_two_forms_are_told_apart():
    assert Identity.parse("spiffe://f/site/a") == Identity("f", Role.SITE, "a")
    assert Identity.parse("spiffe://f/coordinator") == Identity("f", Role.COORDINATOR)
    assert identity.site("f", "coordinator") != identity.coordinator("f")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://f/site",
        "spiffe://f/site/",
        "spiffe://f/site/a/b",
        "spiffe://f/coordinator/a",
        "spiffe://f/coordinator/",
        "spiffe:///site/a",
        "spiffe://f/Site/a",
        "spiffe://f/user/a",
        "SPIFFE://f/site/a",
        "https://f/site/a",
        "spiffe://f/site/a\n",
        "spiffe://f/site/A",
        "spiffe://F/site/a",
        "spiffe://f/site/..",
        "spiffe://f/site/a%2fb",
        "spiffe://f:80/site/a",
        "spiffe://u@f/site/a",
        "spiffe://f/site/a?x",
        "spiffe://f/site/a#x",
        "spiffe://f/site/\u0430",
    ],
)
def test_every_other_uri_is_no_identity(uri):
    assert Identity.parse("spiffe://f/site/a").name == "a"
    with pytest.raises(IdentityError):
        Identity.parse(uri)


def test_names_are_checked_where_identities_are_made():
    assert identity.site("f", "a").uri == "spiffe://f/site/a"
    for bad in ("A", "a/b", "", "../x"):
        with pytest.raises(FormatError):
            identity.site("f", bad)
        with pytest.raises(FormatError):
            identity.coordinator(bad)
