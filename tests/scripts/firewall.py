start_all()

for port in (80, 8080):
    server.execute(
        f"systemd-run -q socat TCP-LISTEN:{port},fork,reuseaddr SYSTEM:'echo port {port}'"
    )
    server.wait_for_open_port(port)

with subtest("without a firewall both ports answer"):
    assert client.succeed("nc -w 5 server 80 < /dev/null") == "port 80\n"
    assert client.succeed("nc -w 5 server 8080 < /dev/null") == "port 8080\n"

with subtest("a firewall lets in what it names"):
    server.succeed(
        """cat > /etc/nftables.conf <<'EOF'
flush ruleset
table inet filter {
    set allowed { type inet_service; elements = { 80 } }
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        icmp type echo-request limit rate 100/second accept
        tcp dport @allowed accept
        counter
    }
}
EOF""",
        "systemctl start nftables",
    )
    server.wait_for_unit("nftables.service")
    client.wait_for_open_port(80, "server")
    client.wait_for_closed_port(8080, "server", timeout=30)
    client.succeed("ping -c 1 server")

with subtest("the rules can be changed while they are in force"):
    server.succeed("nft add element inet filter allowed { 8080 }")
    client.wait_for_open_port(8080, "server")
    server.succeed("nft delete element inet filter allowed { 80 }")
    client.fail("nc -z -w 1 server 80")

with subtest("without the service all is open again"):
    server.succeed("systemctl stop nftables")
    client.wait_for_open_port(80, "server")
