NEW_KEY = "umask 077; wg genkey | tee /etc/wireguard/key | wg pubkey"

start_all()

with subtest("only the tunnel passes the internet, which hides the office's address"):
    office.succeed(f"ip route add default via {office_gateway.ip(1)}")
    office_gateway.succeed(f"ip route add default via {internet.ip(2)}")
    branch_gateway.succeed(f"ip route add default via {internet.ip(3)}")
    branch.succeed(f"ip route add default via {branch_gateway.ip(4)}")
    internet.copy_from_host("internet.nft", "/etc/nftables.conf")
    internet.succeed("systemctl start nftables")
    office_gateway.fail(f"ping -c 1 -W 1 {branch_gateway.ip(3)}")

with subtest("each gateway knows the other by its key"):
    office_key, branch_key = (
        gateway.succeed(NEW_KEY).strip() for gateway in (office_gateway, branch_gateway)
    )
    office_gateway.succeed(
        f"""cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
[Peer]
PublicKey = {branch_key}
Endpoint = {branch_gateway.ip(3)}:51820
AllowedIPs = 192.168.4.0/24
PersistentKeepalive = 1
EOF""",
        "systemctl start wg-quick@wg0",
    )
    branch_gateway.succeed(
        f"""cat > /etc/wireguard/wg0.conf <<EOF
[Interface]
PrivateKey = $(cat /etc/wireguard/key)
ListenPort = 51820
[Peer]
PublicKey = {office_key}
AllowedIPs = 192.168.1.0/24
EOF""",
        "systemctl start wg-quick@wg0",
    )

with subtest("each site reaches the other, by addresses that the internet does not know"):
    branch.wait_until_succeeds(f"ping -c 1 -W 1 {office.ip(1)}")
    office.succeed(f"ping -c 1 {branch.ip(4)}")
    assert internet.ip(3) in branch_gateway.succeed("wg show wg0 endpoints")

with subtest("what is larger than a packet arrives whole"):
    office.succeed("head -c 1M /dev/urandom > /root/file")
    branch.succeed("systemd-run --quiet sh -c 'nc -l -k 9000 > /root/file'")
    branch.wait_for_open_port(9000)
    office.succeed(f"nc -N {branch.ip(4)} 9000 < /root/file")
    branch.wait_until_succeeds("test $(stat --format=%s /root/file) = 1048576")
    assert office.succeed("sha256sum /root/file") == branch.succeed("sha256sum /root/file")

with subtest("the tunnel goes on when the office's address changes"):
    before = branch_gateway.succeed("wg show wg0 endpoints")
    internet.succeed("conntrack --flush")
    branch.wait_until_succeeds(f"ping -c 1 -W 1 {office.ip(1)}")
    assert branch_gateway.succeed("wg show wg0 endpoints") != before

with subtest("a gateway with another key is nobody"):
    office_gateway.succeed(f"{NEW_KEY}; wg set wg0 private-key /etc/wireguard/key")
    office.fail(f"ping -c 1 -W 1 {branch.ip(4)}")
