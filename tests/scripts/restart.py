machine.succeed(
    """cat > /etc/systemd/system/daemon.service <<'EOF'
[Unit]
StartLimitBurst=3
StartLimitIntervalSec=1000
[Service]
ExecStartPre=sh -c 'echo start >> /var/tmp/starts'
ExecStart=sleep 1000
Restart=on-failure
RestartSec=100ms
[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload
systemctl enable -q --now daemon"""
)
machine.wait_for_unit("daemon")

with subtest("what is killed is started again"):
    first = machine.get_unit_property("daemon", "MainPID")
    machine.succeed(f"kill -9 {first}")
    machine.wait_until_succeeds("test $(wc -l < /var/tmp/starts) = 2")
    machine.wait_for_unit("daemon")
    assert machine.get_unit_property("daemon", "MainPID") != first
    assert machine.get_unit_property("daemon", "NRestarts") == "1"

with subtest("what is stopped stays so"):
    machine.stop_job("daemon")
    machine.require_unit_state("daemon", "inactive")

with subtest("what fails too often is given up"):
    machine.succeed("sed -i 's/^ExecStart=.*/ExecStart=false/' /etc/systemd/system/daemon.service")
    machine.succeed("systemctl daemon-reload")
    machine.systemctl("start --no-block daemon")
    machine.wait_until_succeeds("systemctl is-failed daemon")
    with t.assertRaises(Exception):
        machine.wait_for_unit("daemon", timeout=30)
