from __future__ import annotations

# A driver that has no such function takes one after the other.
globals().setdefault("wait_all", lambda items, fn: [fn(item) for item in items])

start_all()

clients = [east, west]
inside = {"hub": "10.9.0.1", "east": "10.9.0.2", "west": "10.9.0.3"}
keys: dict[str, str] = {}


def make_key(node: Machine) -> None:
    node.succeed("umask 077; wg genkey > /etc/wireguard/key")
    keys[node.name] = node.succeed("wg pubkey < /etc/wireguard/key").strip()


def admit(node: Machine) -> None:
    hub.succeed(f"wg set wg0 peer {keys[node.name]} allowed-ips {inside[node.name]}/32")


def revoke(node: Machine) -> None:
    hub.succeed(f"wg set wg0 peer {keys[node.name]} remove")


def connect_anew(node: Machine) -> None:
    """By itself it would go on with its old session for 15 seconds, and try again every 5."""
    node.succeed(
        f"wg set wg0 peer {keys['hub']} remove",
        "wg-quick strip wg0 | sed /PrivateKey/d > /run/peers && wg addconf wg0 /run/peers",
    )


def reaches(node: Machine, name: str) -> None:
    node.wait_until_succeeds(f"ping -c 1 -W 1 {name}.vpn")


def is_cut_off(node: Machine, name: str) -> None:
    node.fail(f"ping -c 1 -W 1 {name}.vpn")


with subtest("1: keys are made"):
    wait_all([hub, east, west], make_key)
    assert len(set(keys.values())) == 3

with subtest("2: keys are for root alone"):
    for node in (hub, east, west):
        node.succeed("stat -c %a /etc/wireguard/key | grep -x 600")

with subtest("3: names inside the tunnel are known"):
    names = "\n".join(f"{address} {name}.vpn" for name, address in inside.items())
    for node in (hub, east, west):
        node.succeed(f"echo '{names}' >> /etc/hosts")

with subtest("4: the hub is configured"):
    hub.succeed(
        """cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
ListenPort = 51820
Address = 10.9.0.1/24
SaveConfig = true
EOF"""
    )
    hub.succeed("sysctl -qw net.ipv4.ip_forward=1")

with subtest("5: the hub starts"):
    hub.succeed("systemctl start wg-quick@wg0")
    hub.wait_for_unit("wg-quick@wg0.service")

with subtest("6: the hub listens"):
    assert hub.succeed("wg show wg0 listen-port").strip() == "51820"

with subtest("7: the clients are configured"):
    for client in clients:
        client.succeed(
            f"""cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
Address = {inside[client.name]}/24
[Peer]
PublicKey = {keys["hub"]}
Endpoint = hub:51820
AllowedIPs = 10.9.0.0/24
EOF"""
        )

with subtest("8: the clients start"):
    for client in clients:
        client.succeed("systemctl start wg-quick@wg0")
        client.wait_for_unit("wg-quick@wg0.service")

with subtest("9: addresses are given"):
    for client in clients:
        assert inside[client.name] in client.succeed("ip -4 -o addr show dev wg0")

with subtest("10: who was not admitted reaches nobody"):
    for client in clients:
        is_cut_off(client, "hub")

with subtest("11: peers are added"):
    for client in clients:
        admit(client)
        connect_anew(client)
    assert len(hub.succeed("wg show wg0 peers").split()) == 2

with subtest("12: the clients reach the hub by its name"):
    for client in clients:
        reaches(client, "hub")

with subtest("13: the clients reach each other by name, through the hub"):
    reaches(east, "west")
    reaches(west, "east")

with subtest("14: the hub reaches the clients"):
    for client in clients:
        reaches(hub, client.name)

with subtest("15: the hub knows of handshakes"):
    handshakes = dict(
        line.split() for line in hub.succeed("wg show wg0 latest-handshakes").splitlines()
    )
    assert all(int(when) > 0 for when in handshakes.values()), handshakes

with subtest("16: the hub has learnt where its clients are"):
    assert "(none)" not in hub.succeed("wg show wg0 endpoints")

with subtest("17: what goes through the tunnel is counted"):
    before = int(east.succeed("wg show wg0 transfer").split()[2])
    east.succeed("ping -c 1 -s 1000 hub.vpn")
    assert int(east.succeed("wg show wg0 transfer").split()[2]) > before + 1000

with subtest("18: a peer is revoked"):
    revoke(east)
    is_cut_off(east, "hub")
    assert keys["east"] not in hub.succeed("wg show wg0 peers")

with subtest("19: the other one is not touched"):
    reaches(west, "hub")

with subtest("20: the peer is admitted again"):
    admit(east)
    connect_anew(east)
    reaches(east, "hub")

with subtest("21: a client's key is rotated"):
    old = keys["west"]
    make_key(west)
    assert keys["west"] != old
    west.succeed("wg set wg0 private-key /etc/wireguard/key")
    is_cut_off(west, "hub")

with subtest("22: the hub takes the new key for the old one"):
    hub.succeed(f"wg set wg0 peer {old} remove")
    admit(west)
    connect_anew(west)
    reaches(west, "hub")

with subtest("23: the hub's state is saved"):
    hub.succeed("wg-quick save wg0")
    hub.succeed(f"grep {keys['west']} /etc/wireguard/wg0.conf")
    hub.fail(f"grep {old} /etc/wireguard/wg0.conf")

with subtest("24: the hub is restarted"):
    hub.succeed("systemctl restart wg-quick@wg0")
    hub.wait_for_unit("wg-quick@wg0.service")
    for client in clients:
        connect_anew(client)
        reaches(client, "hub")
    reaches(east, "west")

with subtest("25: an access rule keeps the clients apart"):
    hub.succeed("sysctl -qw net.ipv4.conf.wg0.forwarding=0")
    is_cut_off(east, "west")
    reaches(east, "hub")

with subtest("26: the rule is lifted"):
    hub.succeed("sysctl -qw net.ipv4.conf.wg0.forwarding=1")
    reaches(east, "west")

with subtest("27: status"):
    status = hub.succeed("wg show")
    assert status.count("latest handshake") == 2, status
    assert inside["east"] in status

with subtest("28: logs"):
    hub.succeed("journalctl --unit wg-quick@wg0 | grep 'wg setconf wg0'")
    for node in (hub, east, west):
        node.succeed("! journalctl --unit wg-quick@wg0 --priority err --quiet | grep .")

with subtest("29: the tunnel is taken down"):
    for node in (east, west, hub):
        node.succeed("systemctl stop wg-quick@wg0")
        node.fail("ip link show wg0")
