import stat
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import config
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    address: str
    port: int
    strict: bool = True


def write(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(address=TEXT, port=st.integers(0, 1 << 60), strict=st.booleans())
def test_what_is_saved_loads_to_the_same_settings(tmp_path_factory, address, port, strict):
    path = tmp_path_factory.getbasetemp() / "saved.toml"
    settings = Settings(address=address, port=port, strict=strict)
    config.save(path, settings)
    assert config.load(path, Settings) == settings


def test_saved_settings_are_their_owners_alone(tmp_path):
    path = tmp_path / "settings.toml"
    config.save(path, Settings(address="a", port=1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_with_a_default_may_be_left_out(tmp_path):
    path = write(tmp_path, 'address = "a"\nport = 1\n')
    assert config.load(path, Settings) == Settings(address="a", port=1, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('address = "a"\n', "incomplete"),
        ('address = "a"\nport = 1\nother = 2\n', "unknown key `other`"),
        ('address = "a"\nport = "1"\n', "`port` has the wrong type"),
        ('address = "a"\nport = true\n', "`port` has the wrong type"),
        ('address = "a"\nport = 1.0\n', "`port` has the wrong type"),
        ('address = "a"\nport = 1\nstrict = 1\n', "`strict` has the wrong type"),
        ('address = ["a"]\nport = 1\n', "`address` has the wrong type"),
        ("address = \n", "is not TOML"),
        ('address = "a"\naddress = "b"\nport = 1\n', "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        ("#" * (config.MAX_CONFIG_BYTES + 1), "is over"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(tmp_path, text, message):
    right = write(tmp_path, 'address = "a"\nport = 1\n')
    assert config.load(right, Settings).port == 1
    with pytest.raises(KitError, match=message):
        config.load(write(tmp_path, text), Settings)
