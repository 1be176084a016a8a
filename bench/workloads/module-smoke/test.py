from __future__ import annotations

# A driver that has no such function takes one after the other.
globals().setdefault("wait_all", lambda items, fn: [fn(item) for item in items])

start_all()
everyone = [api, names, plain, proxy]


def serves(node: Machine) -> None:
    secure = node.name == "proxy"
    node.succeed(f"ln -s /etc/nginx/roles/{node.name} /etc/nginx/sites-enabled/")
    # What others are behind it need not be up yet, but their names be known.
    node.succeed("nginx -t -q", "systemctl start nginx")
    node.wait_for_unit("nginx.service")
    node.wait_for_open_port(443 if secure else 80)
    url = "https://localhost" if secure else "http://localhost"
    assert node.succeed(f"curl -sSfk {url}/health") == "healthy\n"


def is_clean(node: Machine) -> None:
    assert node.get_unit_info("nginx.service")["ActiveState"] == "active"
    node.succeed("! journalctl --unit nginx --priority err --quiet | grep .")
    node.succeed(r"! grep -E '\[(error|crit|alert|emerg)\]' /var/log/nginx/error.log")


with subtest("each of them serves"):
    wait_all(everyone, serves)

with subtest("the plain one answers"):
    assert api.succeed("curl -sSf http://plain/") == "plain\n"
    plain.fail("curl -sSf http://plain:81/")

with subtest("the proxy hands on, over TLS"):
    assert plain.succeed("curl -sSfk https://proxy/") == "plain\n"
    plain.fail("curl -sSf https://proxy/")

with subtest("names of other machines are upstreams"):
    assert plain.succeed("curl -sSf http://names/") == "plain\n"
    assert plain.succeed("curl -sSf http://names/api/") == "healthy\n"

with subtest("no log has an error"):
    wait_all(everyone, is_clean)

with subtest("too many calls are refused"):
    status = "curl -s -o /dev/null -w '%{http_code} ' http://api/"
    assert plain.succeed("; ".join([status] * 5)) == "200 200 200 429 429 "
    assert plain.succeed("curl -sSf http://api/health") == "healthy\n"
    api.succeed("grep -c 'limiting requests' /var/log/nginx/error.log | grep -x 2")
