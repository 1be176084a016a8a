import json

WHOLE_CLUSTER = ",".join(f"{member.name}=http://{member.name}:2380" for member in machines)


def start(member: Machine) -> None:
    member.succeed(
        f"""cat > /etc/default/etcd <<EOF
ETCD_NAME={member.name}
ETCD_INITIAL_CLUSTER={WHOLE_CLUSTER}
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{member.name}:2380
ETCD_LISTEN_PEER_URLS=http://{member.ip()}:2380
ETCD_LISTEN_CLIENT_URLS=http://{member.ip()}:2379,http://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=http://{member.name}:2379
EOF
systemctl start etcd"""
    )


def leader_by(member: Machine) -> str:
    """The name of the leader that a member follows, or is."""
    leader = json.loads(member.succeed("etcdctl endpoint status -w json"))[0]["Status"]["leader"]
    members = json.loads(member.succeed("etcdctl member list -w json"))["members"]
    return next(each["name"] for each in members if each["ID"] == leader)


def get(member: Machine, options: str = "") -> str:
    return member.succeed(f"etcdctl get colour --print-value-only {options}")


with subtest("three members elect one leader"):
    wait_all(machines, start)
    leaders = {leader_by(member) for member in machines}
    assert len(leaders) == 1, leaders
    leader = next(member for member in machines if member.name in leaders)
    followers = [member for member in machines if member is not leader]

with subtest("what one writes all read"):
    followers[0].succeed("etcdctl put colour green")
    assert [get(member) for member in machines] == ["green\n"] * 3

with subtest("without its leader the cluster goes on"):
    leader.block()
    followers[0].wait_until_succeeds("etcdctl put colour blue")
    assert get(followers[1]) == "blue\n"
    assert {leader_by(member) for member in followers} < {member.name for member in followers}

with subtest("who is cut off neither writes nor believes what it knows"):
    leader.fail("etcdctl put colour red --command-timeout=2s")
    leader.fail("etcdctl get colour --command-timeout=2s")
    assert get(leader, "--consistency=s") == "green\n"

with subtest("the old leader comes back as a follower, and all have the same"):
    leader.unblock()
    leader.wait_until_succeeds("etcdctl get colour --print-value-only | grep blue")
    assert leader_by(leader) != leader.name
    hashes = json.loads(leader.succeed("etcdctl endpoint hashkv --cluster -w json"))
    assert len({each["HashKV"]["hash"] for each in hashes}) == 1, hashes
