machine.succeed(
    """cat > /etc/systemd/system/echo.socket <<'EOF'
[Socket]
ListenStream=7000
ListenStream=/run/echo.sock
Accept=yes
EOF
cat > /etc/systemd/system/echo@.service <<'EOF'
[Service]
ExecStart=-cat
StandardInput=socket
EOF
systemctl daemon-reload
systemctl start echo.socket"""
)
machine.wait_for_unit("echo.socket")
machine.wait_for_open_port(7000)
machine.wait_for_open_unix_socket("/run/echo.sock")

with subtest("the service starts when somebody calls"):
    assert machine.succeed("echo one | socat -t 10 - TCP:localhost:7000") == "one\n"
    assert machine.succeed("echo two | socat -t 10 - UNIX:/run/echo.sock") == "two\n"
    assert int(machine.get_unit_property("echo.socket", "NAccepted")) >= 2

with subtest("a socket that closes"):
    machine.stop_job("echo.socket")
    machine.wait_for_closed_port(7000)

with subtest("datagrams"):
    machine.execute(
        "systemd-run -q socat UNIX-RECVFROM:/run/gram.sock,fork OPEN:/tmp/got,creat,append"
    )
    machine.wait_for_open_unix_socket("/run/gram.sock", is_datagram=True)
    machine.succeed("echo word | socat - UNIX-SENDTO:/run/gram.sock")
    machine.wait_until_succeeds("grep word /tmp/got")
