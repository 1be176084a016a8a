start_all()

server.succeed(
    """cat > /etc/dnsmasq.d/test.conf <<'EOF'
interface=eth0
bind-interfaces
dhcp-range=192.168.1.100,192.168.1.150,1h
dhcp-option=option:router,192.168.1.9
address=/printer.lan/192.168.1.66
EOF"""
)
server.succeed("systemctl start dnsmasq")
server.wait_for_unit("dnsmasq.service")

with subtest("the client gets a lease in place of its address"):
    client.succeed("ip addr flush dev eth0")
    client.fail("ping -c 1 -W 1 192.168.1.2")
    client.succeed("udhcpc -i eth0 -n -q -s /etc/udhcpc/default.script")
    address = client.succeed("ip -4 -o addr show dev eth0")
    assert "192.168.1.1" in address, address
    client.succeed("ping -c 1 192.168.1.2")
    assert "via 192.168.1.9" in client.succeed("ip route show default")

with subtest("the server knows of it"):
    mac = client.succeed("cat /sys/class/net/eth0/address").strip()
    assert mac in server.succeed("cat /var/lib/misc/dnsmasq.leases")

with subtest("names are answered"):
    assert client.succeed("dig +short @192.168.1.2 printer.lan") == "192.168.1.66\n"
