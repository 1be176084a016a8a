DATA = "/var/lib/postgresql/15/main"
CONFIG = "/etc/postgresql/15/main/postgresql.conf"
ROWS = "SELECT line FROM journal ORDER BY line"


def psql(statement: str) -> str:
    return f'runuser -u postgres -- psql -qAt -v ON_ERROR_STOP=1 -c "{statement}"'


def sql(machine: Machine, statement: str) -> str:
    return machine.succeed(psql(statement))


start_all()

with subtest("the standby begins as a copy of the primary, and confirms what that commits"):
    one.succeed("systemctl start postgresql")
    one.wait_for_open_port(5432)
    two.succeed(
        f"rm -r {DATA}",
        f"runuser -u postgres -- pg_basebackup -h one -D {DATA} -R -c fast",
        "systemctl start postgresql",
    )
    sql(one, "CREATE TABLE journal (line text)")
    sql(one, "INSERT INTO journal VALUES ('1 confirmed')")
    assert sql(two, ROWS) == "1 confirmed\n"

with subtest("nothing is committed without the standby"):
    two.block()
    one.succeed("systemd-run --quiet " + psql("INSERT INTO journal VALUES ('2 not confirmed')"))
    waits = psql("SELECT wait_event FROM pg_stat_activity") + " | grep SyncRep"
    one.wait_until_succeeds(waits, timeout=60)
    assert sql(one, ROWS) == "1 confirmed\n"

with subtest("the primary dies, and the standby takes over"):
    one.crash()
    two.unblock()
    sql(two, "ALTER SYSTEM SET synchronous_standby_names = ''")
    sql(two, "SELECT pg_reload_conf(), pg_promote()")
    sql(two, "INSERT INTO journal VALUES ('3 alone')")
    assert sql(two, ROWS) == "1 confirmed\n3 alone\n"

with subtest("the old primary comes back as a standby, without what nobody confirmed"):
    sql(two, "CHECKPOINT")
    one.start()
    one.succeed(
        f"runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_rewind -D {DATA} -R"
        f" --config-file={CONFIG} --source-server='host=two dbname=postgres' 2>&1",
        "systemctl start postgresql",
    )
    sql(two, "ALTER SYSTEM RESET synchronous_standby_names")
    sql(two, "SELECT pg_reload_conf()")
    sql(two, "INSERT INTO journal VALUES ('4 together')")
    assert sql(one, ROWS) == sql(two, ROWS) == "1 confirmed\n3 alone\n4 together\n"
