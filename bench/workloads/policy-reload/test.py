start_all()

policy = "/etc/haproxy/policy.map"
api = "socat - UNIX-CONNECT:/run/haproxy/admin.sock"


def decide(expected: str) -> str:
    """Whether three clients, of whom only the names are known, get this."""
    ask = "-s -o /dev/null -w '%{http_code} ' -H 'X-Client: {}' http://localhost/"
    calls = " --next ".join(ask.replace("{}", who) for who in ("alice", "bob", "carol"))
    return f"curl {calls} | grep -x '{expected} '"


def write(**rules: str) -> None:
    lines = "\n".join(f"{who} {what}" for who, what in rules.items())
    gateway.succeed(f"printf '%s\n' '{lines}' > {policy}")


with subtest("the initial policy is read"):
    gateway.wait_for_unit("haproxy.service")
    gateway.wait_for_open_port(80)
    gateway.succeed(decide("200 403 403"))

with subtest("a changed file is in force after a reload by signal, without a restart"):
    main = gateway.succeed("cat /run/haproxy.pid").strip()
    worker = gateway.succeed(f"pgrep -P {main}").strip()
    write(alice="allow", bob="allow")
    gateway.succeed(decide("200 403 403"))
    gateway.succeed(f"kill -USR2 {main}")
    gateway.wait_until_succeeds(decide("200 200 403"))
    gateway.wait_until_fails(f"kill -0 {worker}")
    gateway.succeed(f"kill -0 {main}")

with subtest("the runtime API changes it at once, and not the file"):
    gateway.succeed(f"echo 'set map {policy} bob deny; add map {policy} carol allow' | {api}")
    gateway.succeed(decide("200 403 200"))
    assert "carol allow" in gateway.succeed(f"echo 'show map {policy}' | {api}")
    gateway.fail(f"grep carol {policy}")

with subtest("it is replaced as a whole, in one step"):
    version = gateway.succeed(f"echo 'prepare map {policy}' | {api}").split()[-1]
    gateway.succeed(f"printf 'add map @{version} {policy} <<\ncarol allow\n\n' | {api}")
    gateway.succeed(decide("200 403 200"))
    gateway.succeed(f"echo 'commit map @{version} {policy}' | {api}")
    gateway.succeed(decide("403 403 200"))

with subtest("what is no policy is refused, and the one in force stays"):
    assert "400" in gateway.succeed("printf 'x\r\n\r\n' | socat - TCP:localhost:80")
    assert "Unknown map" in gateway.succeed(f"echo 'show map /etc/nothing' | {api}")
    gateway.succeed(decide("403 403 200"))

with subtest("the initial one is restored"):
    write(alice="allow", bob="deny")
    gateway.succeed(f"kill -USR2 {main}")
    gateway.wait_until_succeeds(decide("200 403 403"))
    gateway.succeed("! journalctl --unit haproxy --priority err --quiet | grep .")
