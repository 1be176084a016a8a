machine.wait_for_unit("multi-user.target")

with subtest("the manager of a user who is not logged in comes up meanwhile"):
    machine.succeed("(sleep 1; loginctl enable-linger alice) > /dev/null 2>&1 &")
    machine.wait_for_unit("default.target", "alice")
    machine.wait_for_unit("user@1000.service")
    with t.assertRaisesRegex(Exception, "there is no user nobody2"):
        machine.wait_for_unit("default.target", "nobody2")

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
    machine.systemctl("stop --no-block nap.service", "alice")
    machine.wait_for_unit("nap.service", "alice", state="inactive")

with subtest("the system has none of that name"):
    assert machine.get_unit_property("nap.service", "LoadState") == "not-found"

with subtest("one that fails is not waited for"):
    machine.succeed(
        "printf '[Service]\\nExecStart=sh -c \"echo no luck; exit 4\"\\n' "
        "> /home/alice/.config/systemd/user/bad.service",
    )
    machine.systemctl("daemon-reload", "alice")
    machine.start_job("bad.service", "alice")
    with t.assertRaisesRegex(Exception, r"(?s)failed \(exit code 4\).*journal.*no luck"):
        machine.wait_for_unit("bad.service", "alice", timeout=60)

with subtest("one that does its work"):
    machine.succeed(
        "cd /home/alice/.config/systemd/user; ln -s /dev/null masked.service",
        "printf '[Service]\\nType=oneshot\\nExecStart=sleep 1\\n' "
        "> /home/alice/.config/systemd/user/work.service",
    )
    machine.systemctl("daemon-reload", "alice")
    machine.systemctl("start --no-block work.service", "alice")
    machine.wait_until_unit_finishes("work.service", "alice")
    with t.assertRaisesRegex(Exception, "it is masked"):
        machine.wait_for_unit("masked.service", "alice", timeout=60)

with subtest("what systemctl says is told"):
    with t.assertRaisesRegex(Exception, "exit code 1: .*nobody2"):
        machine.get_unit_info("nap.service", "nobody2")
