from __future__ import annotations

# A driver that has no such function takes one after the other.
globals().setdefault("wait_all", lambda items, fn: [fn(item) for item in items])

start_all()
everyone = [api, names, plain, proxy]


def is_up(node: Machine) -> None:
    node.wait_for_unit("nginx.service")
    node.wait_for_open_port(443 if node is proxy else 80)


def is_clean(node: Machine) -> None:
    node.succeed(r"! grep -E '\[(error|crit|alert|emerg)\]' /var/log/nginx/error.log")


with subtest("each of them is up"):
    wait_all(everyone, is_up)

with subtest("each of them is healthy"):
    urls = "http://api/health http://names/health http://plain/health https://proxy/health"
    assert plain.succeed(f"curl -sSfk {urls}") == "healthy\n" * 4

with subtest("the plain one answers, where it listens"):
    assert plain.succeed("curl -sSf http://plain/") == "plain\n"
    plain.fail("curl -sSf http://plain:81/")

with subtest("the proxy hands on, over TLS"):
    assert plain.succeed("curl -sSfk https://proxy/") == "plain\n"
    plain.fail("curl -sSf https://proxy/")

with subtest("names of other machines are upstreams"):
    assert plain.succeed("curl -sSf http://names/ http://names/api/") == "plain\nhealthy\n"

with subtest("no log has an error"):
    wait_all(everyone, is_clean)

with subtest("too many calls are refused"):
    ask = "-s -o /dev/null -w '%{http_code} ' http://api/"
    assert plain.succeed(f"curl {' --next '.join([ask] * 5)}") == "200 200 200 429 429 "
    assert plain.succeed("curl -sSf http://api/health") == "healthy\n"
    api.succeed("grep -c 'limiting requests' /var/log/nginx/error.log | grep -x 2")
