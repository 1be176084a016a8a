start_all()
cache.succeed("sed -i 's/^-l .*/-l 0.0.0.0/' /etc/memcached.conf", "systemctl start memcached")
cache.wait_for_unit("memcached.service")
cache.wait_for_open_port(11211)


def ask(text: str) -> list[str]:
    return client.succeed(f"printf '{text}quit\\r\\n' | nc -w 5 cache 11211").splitlines()


with subtest("values come back"):
    assert ask("set k 0 0 5\\r\\nhello\\r\\n") == ["STORED"]
    assert ask("get k\\r\\n") == ["VALUE k 0 5", "hello", "END"]

with subtest("many clients at once"):
    ask("set n 0 0 1\\r\\n0\\r\\n")
    client.succeed("printf 'incr n 1\\r\\nquit\\r\\n' > /tmp/incr")
    client.succeed("for i in $(seq 20); do nc -w 5 cache 11211 < /tmp/incr & done; wait")
    assert "20" in ask("get n\\r\\n")

with subtest("nothing outlives a restart"):
    cache.succeed("systemctl restart memcached")
    cache.wait_for_open_port(11211)
    assert ask("get k\\r\\n") == ["END"]
