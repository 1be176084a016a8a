from ipaddress import IPv4Address, IPv6Address


def address(family: int) -> str:
    """The laptop's address of a family that others may use; empty when it has none."""
    told = laptop.succeed(f"ip -brief -{family} address show dev eth0 scope global")
    return " ".join(told.split()[2:]).partition("/")[0]


def wait_for_network() -> None:
    laptop.wait_until_succeeds(f"ip -4 route | grep 'default via {router.ip()} '")
    laptop.wait_until_succeeds("ip -6 route | grep 'default via fe80::'")
    laptop.wait_until_succeeds("ip -6 address show dev eth0 scope global -tentative | grep inet6")


with subtest("the laptop gets addresses from the ranges, and routes"):
    router.succeed("systemctl start dnsmasq")
    assert address(4) == address(6) == ""
    # Here, not in the snapshot that it starts from: it asks by its machine id, which is new now.
    laptop.succeed("systemctl enable --now systemd-networkd 2>&1")
    wait_for_network()
    four, six = address(4), address(6)
    assert IPv4Address("192.168.1.100") <= IPv4Address(four) <= IPv4Address("192.168.1.150")
    assert IPv6Address("2001:db8:1::100") <= IPv6Address(six) <= IPv6Address("2001:db8:1::1ff")
    laptop.succeed(f"ping -c 1 {router.ip()}", f"ping -c 1 {router.ip(family=6)}")

with subtest("the router knows whose they are, by card and by name"):
    mac = laptop.interfaces[0].mac
    router.succeed(f"grep '{mac} {four} laptop ' /var/lib/misc/dnsmasq.leases")
    laptop.succeed(f"echo nameserver {router.ip()} > /etc/resolv.conf")
    found = laptop.succeed("getent ahosts laptop.lan")
    assert {line.split()[0] for line in found.splitlines()} == {four, six}

with subtest("after a reboot it is the same again"):
    laptop.reboot()
    wait_for_network()
    assert (address(4), address(6)) == (four, six)
