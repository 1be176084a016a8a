machine.start()
machine.wait_for_unit("multi-user.target")


def psql(sql: str, database: str = "postgres") -> str:
    return machine.succeed(f'sudo -u postgres psql -qAt -v ON_ERROR_STOP=1 {database} -c "{sql}"')


with subtest("the database starts"):
    machine.succeed("systemctl start postgresql")
    machine.wait_for_unit("postgresql@15-main.service")
    machine.wait_for_open_unix_socket("/run/postgresql/.s.PGSQL.5432")

with subtest("tables keep what they are given"):
    psql("CREATE DATABASE shop")
    psql("CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE, price int)", "shop")
    psql("INSERT INTO item (name, price) VALUES ('pear', 3), ('plum', 5)", "shop")
    assert psql("SELECT sum(price) FROM item", "shop") == "8\n"

with subtest("a broken statement changes nothing"):
    machine.fail(
        "sudo -u postgres psql -v ON_ERROR_STOP=1 shop "
        "-c \"BEGIN; DELETE FROM item; INSERT INTO item (name) VALUES ('pear'), ('pear'); COMMIT\""
    )
    assert psql("SELECT count(*) FROM item", "shop") == "2\n"

with subtest("a dump goes into another database"):
    machine.succeed("sudo -u postgres pg_dump shop > /tmp/shop.sql")
    psql("CREATE DATABASE copy")
    machine.succeed("sudo -u postgres psql -q copy < /tmp/shop.sql")
    assert psql("SELECT name FROM item ORDER BY name", "copy").split() == ["pear", "plum"]

with subtest("its backend's crash does not lose what was committed"):
    machine.succeed("systemctl kill -s KILL postgresql@15-main.service")
    machine.wait_until_fails("pgrep -x postgres")
    machine.execute("systemctl reset-failed postgresql@15-main.service")
    machine.succeed("systemctl restart postgresql@15-main.service")
    assert psql("SELECT count(*) FROM item", "shop") == "2\n"
