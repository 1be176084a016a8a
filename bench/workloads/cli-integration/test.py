from __future__ import annotations

import re

# A driver that has no such function takes one after the other.
globals().setdefault("wait_all", lambda items, fn: [fn(item) for item in items])

start_all()

clients = [east, west]
everyone = [hub, *clients]
inside = {"hub": "10.9.0.1", "east": "10.9.0.2", "west": "10.9.0.3"}
keys: dict[str, str] = {}


def make_key(node: Machine) -> None:
    made = node.succeed("umask 077; wg genkey | tee /etc/wireguard/key | wg pubkey")
    keys[node.name] = made.strip()


def start(node: Machine) -> None:
    node.succeed(
        "ip link add wg0 type wireguard",
        "wg setconf wg0 /etc/wireguard/wg0.conf",
        f"ip address add {inside[node.name]}/24 dev wg0 && ip link set wg0 up",
    )


def connect(client: Machine) -> None:
    client.succeed(f"wg set wg0 peer {keys['hub']} endpoint hub:51820 allowed-ips 10.9.0.0/24")


def connect_anew(client: Machine) -> None:
    """By itself it would go on with its old session for 15 seconds, and try again every 5."""
    client.succeed(f"wg set wg0 peer {keys['hub']} remove")
    connect(client)


def admit(client: Machine) -> None:
    hub.succeed(f"wg set wg0 peer {keys[client.name]} allowed-ips {inside[client.name]}/32")
    connect_anew(client)


def reaches(node: Machine, name: str) -> None:
    node.wait_until_succeeds(f"ping -c 1 -W 1 {name}.vpn")


def is_cut_off(node: Machine, name: str) -> None:
    """Answers come within 0.1 s."""
    node.fail(f"ping -c 1 -W 0.3 {name}.vpn")


with subtest("1: keys are made"):
    wait_all(everyone, make_key)
    assert len(set(keys.values())) == 3

with subtest("2: keys are for root alone, and names inside the tunnel are known"):
    names = "\n".join(f"{address} {name}.vpn" for name, address in inside.items())
    show = "stat -c %a /etc/wireguard/key | grep -x 600"
    wait_all(everyone, lambda node: node.succeed(f"echo '{names}' >> /etc/hosts; {show}"))

with subtest("3: hub and clients are configured, and start"):
    configuration = """cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
ListenPort = 51820
EOF"""
    wait_all(everyone, lambda node: node.succeed(configuration))
    wait_all(everyone, start)
    hub.succeed("sysctl -qw net.ipv4.ip_forward=1")

with subtest("4: the clients are told of the hub"):
    wait_all(clients, connect)

with subtest("5: the hub listens"):
    assert hub.succeed("wg show wg0 listen-port") == "51820\n"

with subtest("6: addresses are given"):
    for client in clients:
        assert inside[client.name] in client.succeed("ip -4 -o address show dev wg0")

with subtest("7: who was not admitted reaches nobody"):
    wait_all(clients, lambda client: is_cut_off(client, "hub"))

with subtest("8: peers are added"):
    for client in clients:
        admit(client)
    assert len(hub.succeed("wg show wg0 peers").split()) == 2

with subtest("9: the clients reach the hub by its name"):
    wait_all(clients, lambda client: reaches(client, "hub"))

with subtest("10: the clients reach each other by name, through the hub"):
    reaches(east, "west")
    reaches(west, "east")

with subtest("11: the hub reaches the clients"):
    for client in clients:
        reaches(hub, client.name)

with subtest("12: the hub knows of handshakes"):
    handshakes = dict(
        line.split() for line in hub.succeed("wg show wg0 latest-handshakes").splitlines()
    )
    assert all(int(when) > 0 for when in handshakes.values()), handshakes

with subtest("13: the hub has learnt where its clients are"):
    outside = re.findall(r"[\d.]+(?=:51820)", hub.succeed("wg show wg0 endpoints"))
    assert len(set(outside)) == 2, outside

with subtest("14: what goes through the tunnel is counted"):
    before = int(east.succeed("wg show wg0 transfer").split()[2])
    east.succeed("ping -c 1 -s 1000 hub.vpn")
    assert int(east.succeed("wg show wg0 transfer").split()[2]) > before + 1000

with subtest("15: a peer is revoked"):
    hub.succeed(f"wg set wg0 peer {keys['east']} remove")
    is_cut_off(east, "hub")

with subtest("16: the hub has forgotten it"):
    assert keys["east"] not in hub.succeed("wg show wg0 peers")

with subtest("17: the other one is not touched"):
    reaches(west, "hub")

with subtest("18: the peer is admitted again"):
    admit(east)
    reaches(east, "hub")

with subtest("19: a client's key is rotated"):
    old = keys["west"]
    make_key(west)
    assert keys["west"] != old
    west.succeed("wg set wg0 private-key /etc/wireguard/key")
    is_cut_off(west, "hub")

with subtest("20: the hub takes the new key for the old one"):
    hub.succeed(f"wg set wg0 peer {old} remove")
    admit(west)
    reaches(west, "hub")

with subtest("21: the hub's state is saved"):
    hub.succeed("wg showconf wg0 > /etc/wireguard/wg0.conf")
    hub.succeed(f"grep {keys['west']} /etc/wireguard/wg0.conf")
    hub.fail(f"grep {old} /etc/wireguard/wg0.conf")

with subtest("22: the hub is restarted"):
    hub.succeed("ip link delete wg0")
    hub.fail("ip link show wg0")
    start(hub)
    wait_all(clients, connect_anew)

with subtest("23: the clients come back to it"):
    wait_all(clients, lambda client: reaches(client, "hub"))
    reaches(east, "west")

with subtest("24: an access rule keeps the clients apart"):
    hub.succeed("ip rule add prohibit iif wg0 to 10.9.0.3")
    assert "Packet filtered" in east.fail("ping -c 1 -W 1 west.vpn")
    reaches(east, "hub")

with subtest("25: the rule is lifted"):
    hub.succeed("ip rule delete prohibit iif wg0 to 10.9.0.3")
    reaches(east, "west")

with subtest("26: status"):
    status = hub.succeed("wg show")
    assert status.count("latest handshake") == 2, status
    assert inside["east"] in status

with subtest("27: logs"):
    refused = hub.succeed("dmesg | grep 'wg0: Invalid handshake initiation'")
    assert all(address in refused for address in outside), refused
    hub.succeed("! dmesg --level err,crit,alert,emerg | grep -i wireguard")

with subtest("28: the tunnel is taken down"):
    wait_all(everyone, lambda node: node.succeed("ip link delete wg0"))

with subtest("29: nothing of it is left"):
    wait_all(everyone, lambda node: node.fail("ip link show wg0"))
