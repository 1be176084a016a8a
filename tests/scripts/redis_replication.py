def serve(machine: Machine) -> None:
    machine.succeed(
        "sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode .*/protected-mode no/' "
        "/etc/redis/redis.conf",
        "systemctl start redis-server",
    )
    machine.wait_for_open_port(6379)


start_all()
serve(leader)
serve(follower)

follower.succeed("redis-cli replicaof leader 6379")
follower.wait_until_succeeds("redis-cli info replication | grep master_link_status:up")

with subtest("writes reach the follower, which takes none itself"):
    leader.succeed("redis-cli set colour green")
    follower.wait_until_succeeds("redis-cli get colour | grep green")
    assert "READONLY" in follower.succeed("redis-cli set colour red")

with subtest("what is written while they are apart comes later"):
    follower.succeed("redis-cli config set repl-timeout 2")
    leader.succeed("redis-cli config set repl-timeout 2")
    follower.block()
    leader.succeed("redis-cli set colour blue")
    follower.wait_until_succeeds("redis-cli info replication | grep master_link_status:down")
    assert follower.succeed("redis-cli get colour").strip() == "green"
    follower.unblock()
    follower.wait_until_succeeds("redis-cli get colour | grep blue")

with subtest("the follower becomes a leader"):
    leader.crash()
    follower.succeed("redis-cli replicaof no one", "redis-cli set colour red")
    assert follower.succeed("redis-cli get colour").strip() == "red"
