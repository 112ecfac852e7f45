import pytest

from citybrain.core.addresses import Proxies, is_within, read_networks
from citybrain.core.errors import InvalidInput

NEAR = "10.0.0.1,10.0.1.0/24,fd00::/8"


@pytest.mark.parametrize(
    ("peer", "said", "caller"),
    [
        ("192.0.2.7", "", "192.0.2.7"),
        ("192.0.2.7", "1.2.3.4", "192.0.2.7"),  # nobody believes a stranger
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),  # what the caller wrote itself
        ("10.0.0.1", "9.9.9.9, 1.2.3.4, 10.0.1.20", "1.2.3.4"),  # two proxies of ours
        ("10.0.0.1", "1.2.3.4:4711", "1.2.3.4"),
        ("fd00::1", "[2001:db8::5]:443", "2001:db8::5"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "nonsense, 10.0.1.9", "10.0.1.9"),
        ("10.0.0.1", "1.2.3.4, evil", "10.0.0.1"),
        ("", "1.2.3.4", ""),
    ],
)
def test_a_caller_is_who_our_own_proxies_say(peer, said, caller):
    assert Proxies(NEAR).caller(peer, said) == caller


def test_without_proxies_nobody_is_believed():
    assert Proxies("").caller("127.0.0.1", "1.2.3.4") == "127.0.0.1"
    assert not Proxies("").trusts("127.0.0.1")


def test_an_address_lies_in_a_network_whatever_it_is_written_like():
    networks = read_networks(["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"])
    within = ("10.1.255.1", "192.0.2.7", "::ffff:10.1.0.1", "2001:db8::1", "2001:db8::1%eth0")
    assert all(is_within(one, networks) for one in within)
    without = (
        "10.2.0.1",
        "192.0.2.8",
        "2001:db9::1",
        "",
        "testclient",
        "10.1.0.0/16",
        "0x0a010001",
    )
    assert not any(is_within(one, networks) for one in without)


@pytest.mark.parametrize("text", ["", "10.1.0.0/33", "10.1", "a.b", "10.1.0.0/16;10.2.0.0/16"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(InvalidInput):
        read_networks([text])
