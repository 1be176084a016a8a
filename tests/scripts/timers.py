machine.succeed(
    """cat > /etc/systemd/system/tick.service <<'EOF'
[Unit]
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=sh -c 'echo tick >> /run/ticks'
EOF
cat > /etc/systemd/system/tick.timer <<'EOF'
[Timer]
OnActiveSec=100ms
OnUnitInactiveSec=200ms
AccuracySec=1ms
EOF
systemctl daemon-reload"""
)

with subtest("a timer starts its service again and again"):
    machine.start_job("tick.timer")
    machine.wait_for_unit("tick.timer")
    machine.wait_until_succeeds("test $(wc -l < /run/ticks) -ge 3")
    assert machine.get_unit_info("tick.timer")["Unit"] == "tick.service"

with subtest("and does so no more when it is stopped"):
    machine.stop_job("tick.timer")
    machine.require_unit_state("tick.timer", "inactive")
    machine.wait_until_succeeds("systemctl show -p ActiveState tick.service | grep inactive")
    before = machine.succeed("wc -l < /run/ticks")
    machine.sleep(1)
    assert machine.succeed("wc -l < /run/ticks") == before
