machine.wait_for_unit("multi-user.target")
machine.succeed("systemctl start redis-server")
machine.wait_for_unit("redis-server")
machine.wait_for_open_port(6379)

with subtest("keys, counters and lists"):
    machine.succeed("redis-cli set greeting hello")
    assert machine.succeed("redis-cli get greeting").strip() == "hello"
    for expected in (1, 2, 3):
        assert machine.succeed("redis-cli incr visits").strip() == str(expected)
    machine.succeed("redis-cli rpush queue a b c")
    assert machine.succeed("redis-cli --raw lrange queue 0 -1").split() == ["a", "b", "c"]

with subtest("keys expire"):
    machine.succeed("redis-cli set brief x px 300")
    machine.wait_until_succeeds("redis-cli exists brief | grep -x 0", timeout=30)

with subtest("the data outlive a restart"):
    machine.succeed("redis-cli save", "systemctl restart redis-server")
    machine.wait_until_succeeds("redis-cli ping | grep PONG")
    assert machine.succeed("redis-cli get visits").strip() == "3"
