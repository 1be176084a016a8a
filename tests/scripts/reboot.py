machine.start(allow_reboot=True)
machine.wait_for_unit("multi-user.target")
first = machine.succeed("cat /proc/sys/kernel/random/boot_id")
machine.succeed("touch /run/before")

with subtest("it comes back"):
    machine.reboot()
    machine.wait_for_console_text("Linux version")
    machine.wait_for_unit("multi-user.target")
    assert machine.succeed("cat /proc/sys/kernel/random/boot_id") != first
    machine.fail("test -e /run/before")

with subtest("also when it reboots by itself"):
    second = machine.succeed("cat /proc/sys/kernel/random/boot_id")
    machine.execute("systemctl reboot", check_return=False)
    machine.wait_for_console_text("Linux version")
    assert machine.succeed("cat /proc/sys/kernel/random/boot_id") != second
