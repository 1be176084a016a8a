machine.wait_for_unit("multi-user.target")
machine.succeed("systemctl start systemd-logind", "loginctl enable-linger alice")
machine.wait_for_unit("user@1000.service")
machine.wait_for_unit("default.target", "alice")

with subtest("a service of the user"):
    machine.succeed(
        "install -d -o alice -g alice /home/alice/.config/systemd/user",
        "printf '[Service]\\nExecStart=sleep 1000\\n' "
        "> /home/alice/.config/systemd/user/nap.service",
    )
    machine.systemctl("daemon-reload", "alice")
    machine.start_job("nap.service", "alice")
    machine.wait_for_unit("nap.service", "alice")
    assert machine.get_unit_info("nap.service", "alice")["SubState"] == "running"
    assert machine.succeed("ps -o user= -C sleep").split() == ["alice"]
    machine.stop_job("nap.service", "alice")

with subtest("the system has none of that name"):
    assert machine.get_unit_property("nap.service", "LoadState") == "not-found"

with subtest("one that fails is not waited for"):
    machine.succeed(
        "printf '[Service]\\nExecStart=sh -c \"echo no luck; exit 4\"\\n' "
        "> /home/alice/.config/systemd/user/bad.service",
    )
    machine.systemctl("daemon-reload", "alice")
    machine.start_job("bad.service", "alice")
    with t.assertRaisesRegex(Exception, "exit code 4"):
        machine.wait_for_unit("bad.service", "alice", timeout=60)
