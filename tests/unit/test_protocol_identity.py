"""Who a machine is to become, as it travels."""

from attest.guest.agent.identity import encode_identity
from attest.guest.agent.protocol import IdentityField, decode_fields
from attest.guest.identity import Identity, Interface


def test_only_what_is_given_is_sent() -> None:
    assert encode_identity(Identity()) == b""
    fields = decode_fields(
        encode_identity(Identity(hostname="alice", seed=b"\0\xff")), IdentityField
    )
    assert fields == {IdentityField.HOSTNAME: b"alice", IdentityField.SEED: b"\0\xff"}


def test_an_interface_is_lines_of_text() -> None:
    interface = Interface(2, "52:54:00:00:00:01", ("192.168.1.1/24", "fd00::1/64"))
    encoded = encode_identity(Identity(interfaces=(interface,), clock_ns=1_700_000_000_000_000_001))
    fields = decode_fields(encoded, IdentityField)
    assert fields[IdentityField.INTERFACE].decode().splitlines() == [
        "index=2",
        "mac=52:54:00:00:00:01",
        "address=192.168.1.1/24",
        "address=fd00::1/64",
        "up",
    ]
    assert fields[IdentityField.CLOCK] == (1_700_000_000_000_000_001).to_bytes(8, "little")


def test_what_is_left_alone_is_not_named() -> None:
    encoded = encode_identity(Identity(interfaces=(Interface(0, up=False),)))
    assert decode_fields(encoded, IdentityField)[IdentityField.INTERFACE] == b"index=0\n"


def test_a_copy_says_so_and_brings_random_numbers() -> None:
    fields = [
        decode_fields(encode_identity(Identity(copy=True, seed=seed)), IdentityField)
        for seed in (None, None, b"seed")
    ]
    assert [found[IdentityField.COPY] for found in fields] == [b"\1\0\0\0"] * 3
    first, second, given = (found[IdentityField.SEED] for found in fields)
    assert first != second
    assert (len(first), given) == (64, b"seed")
