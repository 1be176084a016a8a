from datetime import timedelta

import attest

start_all()
for machine in machines:
    machine.wait_for_unit("multi-user.target")

with subtest("services are told to end"):
    one.succeed(
        "systemd-run -q --unit last --property ExecStop='sh -c \"echo farewell > /dev/ttyS0\"' "
        "sleep 1000"
    )
    one.execute("systemctl poweroff", check_return=False, check_output=False)
    one.wait_for_console_text("farewell")
    one.wait_for_shutdown()
    assert not one.is_up()

with subtest("a machine that does not leave says which unit hangs, and is still there"):
    two.succeed(
        "systemd-run -q --unit stuck --property TimeoutStopSec=600 --property KillMode=mixed "
        "sh -c 'trap \"\" TERM; while :; do sleep 1000; done'"
    )
    for leave, says in (
        (two.reboot, "did not reboot in 5 s; systemd still waits for"),
        (two.shutdown, "did not power off in 5 s; systemd still waits for"),
        (two.wait_for_shutdown, "did not power off in 5 s; systemd still waits for"),
    ):
        with t.assertRaises(attest.MachineError) as met:
            leave(timeout=timedelta(seconds=5))
        assert f"two: {says}" in met.exception.message, met.exception.message
        assert "stuck.service (stop)" in met.exception.message, met.exception.message
        assert two.succeed("echo alive") == "alive\n"
    two.crash()
    two.start()

with subtest("the others end, and all are waited for"):
    two.shutdown()
    join_all()
    t.assertFalse(any(machine.is_up() for machine in machines))

with subtest("a machine that is off starts by itself when it is needed"):
    assert two.succeed("hostname") == "two\n"
