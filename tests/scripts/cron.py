machine.wait_for_unit("multi-user.target")
machine.succeed(
    "echo '* * * * * root date +\\%s >> /tmp/ran' > /etc/cron.d/ran",
    "echo 'alice' > /etc/cron.allow",
)

with subtest("cron runs jobs in their minute"):
    # Not to wait for it: the machine's clock is put just before the next one.
    machine.succeed("date -s \"$(date -d '+1 minute' +%H:%M:58)\" > /dev/null")
    machine.succeed("systemctl start cron")
    machine.wait_for_unit("cron.service")
    machine.wait_for_file("/tmp/ran", timeout=120)
    machine.wait_until_succeeds("test -s /tmp/ran")
    assert int(machine.succeed("head -n 1 /tmp/ran")) % 60 < 10

with subtest("who is not allowed to has no table of jobs"):
    machine.succeed("echo '@daily true' | crontab -u alice -")
    machine.succeed("sudo -u alice crontab -l | grep daily")
    machine.fail("sudo -u daemon crontab -l")
