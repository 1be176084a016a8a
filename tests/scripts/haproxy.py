backends = [one, two]
start_all()

for backend in backends:
    backend.succeed(f"echo {backend.name} > /var/www/html/index.html")
    backend.start_job("nginx.service")
for backend in backends:
    backend.wait_for_open_port(80)

balancer.succeed(
    """cat >> /etc/haproxy/haproxy.cfg <<'EOF'
frontend web
    bind :80
    default_backend pool
backend pool
    balance roundrobin
    default-server check inter 200 rise 1 fall 1
    server one one:80
    server two two:80
EOF"""
)
balancer.start_job("haproxy")
balancer.wait_for_unit("haproxy")
balancer.wait_for_open_port(80)


def answers(count: int) -> set[str]:
    return {client.succeed("curl -sSf http://balancer/").strip() for _ in range(count)}


last_said = "journalctl -u haproxy | grep 'Server pool/two is' | tail -1"

with subtest("both backends get their share"):
    client.wait_until_succeeds("curl -sSf http://balancer/")
    assert answers(4) == {"one", "two"}

with subtest("a backend without its network is left out"):
    two.block()
    balancer.wait_until_succeeds(
        "journalctl -u haproxy | grep 'Server pool/two is' | tail -1 | grep DOWN"
    )
    assert answers(4) == {"one"}

with subtest("and comes back with it"):
    two.unblock()
    balancer.wait_until_succeeds(
        "journalctl -u haproxy | grep 'Server pool/two is' | tail -1 | grep UP"
    )
    assert answers(4) == {"one", "two"}
