start_all()

with subtest("an authority signs the server's certificate"):
    server.succeed(
        "cd /etc/ssl/private",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 "
        "-subj '/CN=Test authority' -keyout /tmp/ca.key -out /tmp/ca.pem 2>/dev/null",
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server "
        "-keyout /tmp/server.key -out /tmp/server.csr 2>/dev/null",
        "echo subjectAltName=DNS:server > /tmp/ext",
        "openssl x509 -req -in /tmp/server.csr -CA /tmp/ca.pem -CAkey /tmp/ca.key -CAcreateserial "
        "-days 9 -extfile /tmp/ext -out /tmp/server.pem 2>/dev/null",
    )
    server.copy_from_vm("/tmp/ca.pem")

with subtest("nginx uses it"):
    server.succeed(
        """cat > /etc/nginx/sites-enabled/tls <<'EOF'
server {
    listen 443 ssl;
    ssl_certificate /tmp/server.pem;
    ssl_certificate_key /tmp/server.key;
    location / { return 200 "safe\\n"; }
}
EOF""",
        # The service has a /tmp of the machine's: the unit asks for no private one.
        "systemctl start nginx",
    )
    server.wait_for_open_port(443)

with subtest("who trusts the authority trusts the server"):
    client.fail("curl -sSf https://server/")
    client.copy_from_host(str(server.out_dir / "ca.pem"), "/tmp/ca.pem")
    assert client.succeed("curl -sSf --cacert /tmp/ca.pem https://server/") == "safe\n"

with subtest("but not under another name"):
    code, output = client.execute("curl -sS --cacert /tmp/ca.pem https://192.168.1.2/ 2>&1")
    assert code == 60, output

with subtest("and not after its end"):
    client.succeed("date -s '+20 days' > /dev/null")
    client.fail("curl -sSf --cacert /tmp/ca.pem https://server/")
