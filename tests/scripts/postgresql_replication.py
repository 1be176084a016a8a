def psql(machine: Machine, sql: str) -> str:
    return machine.succeed(f'sudo -u postgres psql -qAt -v ON_ERROR_STOP=1 -c "{sql}"')


start_all()
data = "/var/lib/postgresql/15/main"

with subtest("the primary accepts replicas"):
    primary.succeed(
        "echo \"listen_addresses = '*'\" >> /etc/postgresql/15/main/postgresql.conf",
        "echo 'host replication all 192.168.1.0/24 trust' >> /etc/postgresql/15/main/pg_hba.conf",
        "systemctl start postgresql",
    )
    primary.wait_for_open_port(5432)
    psql(primary, "CREATE TABLE log (line text)")
    psql(primary, "INSERT INTO log VALUES ('before')")

with subtest("a replica begins as a copy"):
    replica.succeed(
        f"rm -rf {data}",
        f"sudo -u postgres pg_basebackup -h primary -U postgres -D {data} -R -c fast",
        "systemctl start postgresql",
    )
    replica.wait_for_unit("postgresql@15-main.service")
    assert psql(replica, "SELECT pg_is_in_recovery()") == "t\n"
    assert psql(replica, "SELECT * FROM log") == "before\n"

with subtest("and follows"):
    psql(primary, "INSERT INTO log VALUES ('after')")
    replica.wait_until_succeeds("sudo -u postgres psql -qAt -c 'SELECT * FROM log' | grep after")
    replica.fail("sudo -u postgres psql -c \"INSERT INTO log VALUES ('here')\"")

with subtest("it takes over when the primary crashes"):
    primary.crash()
    psql(replica, "SELECT pg_promote()")
    psql(replica, "INSERT INTO log VALUES ('alone')")
    assert psql(replica, "SELECT count(*) FROM log") == "3\n"
