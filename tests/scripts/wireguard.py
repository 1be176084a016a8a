start_all()
addresses = {alice: "10.9.0.1", bob: "10.9.0.2"}
keys = {}

with subtest("each peer makes its keys"):
    for peer in addresses:
        peer.succeed("umask 077; wg genkey > /etc/wireguard/key")
        keys[peer] = peer.succeed("wg pubkey < /etc/wireguard/key").strip()
    assert keys[alice] != keys[bob]

with subtest("the tunnel comes up"):
    for peer, other in ((alice, bob), (bob, alice)):
        peer.succeed(
            f"""cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
ListenPort = 51820
Address = {addresses[peer]}/24
[Peer]
PublicKey = {keys[other]}
Endpoint = {other.name}:51820
AllowedIPs = {addresses[other]}/32
EOF""",
            "systemctl start wg-quick@wg0",
        )
        peer.wait_for_unit("wg-quick@wg0.service")
    alice.wait_until_succeeds("ping -c 1 -W 1 10.9.0.2")
    bob.wait_until_succeeds("ping -c 1 -W 1 10.9.0.1")

with subtest("what goes through it is encrypted outside"):
    assert keys[bob] in alice.succeed("wg show wg0 latest-handshakes")
    sent = int(alice.succeed("wg show wg0 transfer").split()[2])
    alice.succeed("ping -c 1 -s 1000 10.9.0.2")
    assert int(alice.succeed("wg show wg0 transfer").split()[2]) > sent + 1000

with subtest("a revoked peer is cut off, and let in again"):
    bob.succeed(f"wg set wg0 peer {keys[alice]} remove")
    alice.fail("ping -c 1 -W 1 10.9.0.2")
    bob.succeed("systemctl restart wg-quick@wg0")
    alice.wait_until_succeeds("ping -c 1 -W 1 10.9.0.2")
