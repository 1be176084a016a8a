start_all()

policy = "/etc/haproxy/policy.map"
api = "socat - UNIX-CONNECT:/run/haproxy/admin.sock"


def decisions() -> str:
    """What three clients get, of whom only the names are known."""
    ask = "-s -o /dev/null -w '%{http_code} ' -H 'X-Client: {}' http://localhost/"
    calls = " --next ".join(ask.replace("{}", who) for who in ("alice", "bob", "carol"))
    return gateway.succeed(f"curl {calls}")


def write(**rules: str) -> None:
    lines = "\n".join(f"{who} {what}" for who, what in rules.items())
    gateway.succeed(f"printf '%s\n' '{lines}' > {policy}")


def reload() -> None:
    """By signal: a new worker reads the policy, and then the old one ends."""
    worker = gateway.succeed(f"pgrep -P {main}").strip()
    gateway.succeed(f"kill -USR2 {main}")
    gateway.wait_until_fails(f"kill -0 {worker}")


with subtest("the initial policy is read"):
    gateway.wait_for_unit("haproxy.service")
    gateway.wait_for_open_port(80)
    assert decisions() == "200 403 403 "

with subtest("a changed file is in force after a reload, without a restart"):
    main = gateway.succeed("cat /run/haproxy.pid").strip()
    write(alice="allow", bob="allow")
    assert decisions() == "200 403 403 "
    reload()
    assert decisions() == "200 200 403 "
    gateway.succeed(f"kill -0 {main}")

with subtest("the runtime API changes it at once, and not the file"):
    gateway.succeed(f"echo 'set map {policy} bob deny; add map {policy} carol allow' | {api}")
    assert decisions() == "200 403 200 "
    assert "carol allow" in gateway.succeed(f"echo 'show map {policy}' | {api}")
    gateway.fail(f"grep carol {policy}")

with subtest("it is replaced as a whole, in one step"):
    version = gateway.succeed(f"echo 'prepare map {policy}' | {api}").split()[-1]
    gateway.succeed(f"printf 'add map @{version} {policy} <<\ncarol allow\n\n' | {api}")
    assert decisions() == "200 403 200 "
    gateway.succeed(f"echo 'commit map @{version} {policy}' | {api}")
    assert decisions() == "403 403 200 "

with subtest("what is no policy is refused, and the one in force stays"):
    assert "400" in gateway.succeed("printf 'x\r\n\r\n' | socat - TCP:localhost:80")
    assert "Unknown map" in gateway.succeed(f"echo 'show map /etc/nothing' | {api}")
    assert decisions() == "403 403 200 "

with subtest("the initial one is restored"):
    write(alice="allow", bob="deny")
    reload()
    assert decisions() == "200 403 403 "
    gateway.succeed("! journalctl --unit haproxy --priority err --quiet | grep .")
