start_all()

with subtest("a zone is served"):
    server.succeed(
        """cat > /etc/bind/db.example <<'EOF'
$TTL 60
@    IN SOA ns.example. admin.example. 1 60 60 60 60
     IN NS  ns
     IN MX  10 mail
ns   IN A   192.168.1.2
mail IN A   192.168.1.77
www  IN CNAME mail
txt  IN TXT "some text"
EOF
cat >> /etc/bind/named.conf.local <<'EOF'
zone "example" { type master; file "/etc/bind/db.example"; };
EOF"""
    )
    server.succeed("named-checkconf -z", "systemctl start named")
    server.wait_for_unit("named.service")
    server.wait_for_open_port(53)

with subtest("other machines get answers"):
    client.wait_until_succeeds("dig +short @server mail.example | grep -x 192.168.1.77")
    assert client.succeed("dig +short @server www.example").splitlines() == [
        "mail.example.",
        "192.168.1.77",
    ]
    assert client.succeed("dig +short @server example MX") == "10 mail.example.\n"
    assert "some text" in client.succeed("dig +short @server txt.example TXT")
    assert "NXDOMAIN" in client.succeed("dig @server missing.example")

with subtest("the resolver of the system uses it"):
    client.succeed("echo 'nameserver 192.168.1.2' > /etc/resolv.conf")
    assert client.succeed("getent ahostsv4 www.example").startswith("192.168.1.77")

with subtest("a new serial number brings new records"):
    server.succeed(
        "sed -i 's/ 1 60 60/ 2 60 60/; s/192.168.1.77/192.168.1.78/' /etc/bind/db.example",
        "rndc reload example",
    )
    client.wait_until_succeeds("dig +short @server mail.example | grep -x 192.168.1.78")
