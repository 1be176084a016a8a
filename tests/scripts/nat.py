start_all()
inner, outer = "192.168.1", "192.168.2"

with subtest("a web server outside"):
    server.succeed("systemctl start nginx")
    server.wait_for_open_port(80)

with subtest("without a router the client does not reach it"):
    client.succeed(f"ip route add {outer}.0/24 via {inner}.2")
    client.fail(f"curl -sf --max-time 2 http://{outer}.3/")

with subtest("the router forwards and hides the client"):
    router.succeed(
        "sysctl -q net.ipv4.ip_forward=1",
        "nft add table ip nat",
        "nft add chain ip nat out '{ type nat hook postrouting priority 100; }'",
        "nft add rule ip nat out oifname eth1 masquerade",
    )
    client.wait_until_succeeds(f"curl -sSf http://{outer}.3/")
    log = server.succeed("cat /var/log/nginx/access.log")
    assert f"{outer}.2 " in log and inner not in log, log

with subtest("a forwarded port leads inside"):
    client.execute("systemd-run -q socat TCP-LISTEN:8000,fork SYSTEM:'echo inside'")
    client.wait_for_open_port(8000)
    router.succeed(
        "nft add chain ip nat in '{ type nat hook prerouting priority -100; }'",
        f"nft add rule ip nat in iifname eth1 tcp dport 80 dnat to {inner}.1:8000",
    )
    assert server.succeed(f"nc -w 5 {outer}.2 80 < /dev/null") == "inside\n"
