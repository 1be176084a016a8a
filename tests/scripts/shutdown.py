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

with subtest("the others end, and all are waited for"):
    two.shutdown()
    join_all()
    t.assertFalse(any(machine.is_up() for machine in machines))

with subtest("a machine that is off starts by itself when it is needed"):
    assert two.succeed("hostname") == "two\n"
