machine.start()


def psql(sql: str) -> str:
    return machine.succeed(f'sudo -u postgres psql -qAt -v ON_ERROR_STOP=1 postgres -c "{sql}"')


with subtest("a database is filled"):
    machine.succeed("systemctl enable --now postgresql")
    machine.wait_for_open_unix_socket("/run/postgresql/.s.PGSQL.5432")
    psql("CREATE TABLE item (name text)")
    machine.succeed("sync")

with subtest("what it has acknowledged is there after a power cut, and what it has not is not"):
    psql("INSERT INTO item VALUES ('pear')")
    machine.succeed(
        "systemd-run --quiet --uid=postgres --unit=unfinished psql postgres "
        "-c \"BEGIN; INSERT INTO item VALUES ('plum'); SELECT pg_sleep(600); COMMIT\""
    )
    machine.wait_until_succeeds(
        "sudo -u postgres psql -qAt -c 'SELECT wait_event FROM pg_stat_activity' | grep -x PgSleep"
    )
    machine.crash()
    machine.start()
    machine.wait_for_open_unix_socket("/run/postgresql/.s.PGSQL.5432")
    assert psql("SELECT name FROM item") == "pear\n"
    recovered = machine.succeed("cat /var/log/postgresql/*.log")
    assert "was not properly shut down; automatic recovery in progress" in recovered

with subtest("the file system is whole"):
    machine.succeed("e2fsck -fn /dev/vda")  # the image, which nobody writes
    mounted = machine.succeed("dmesg | grep 'EXT4-fs.*mounted'")
    assert "recovery complete" in machine.succeed("dmesg | grep EXT4-fs"), mounted
