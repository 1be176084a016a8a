servers = [web1, web2, web3]


def serve(server: Machine) -> None:
    server.succeed("hostname > /var/www/html/index.html", "systemctl start nginx")
    server.wait_for_open_port(80)


def wait_for_health(server: Machine, state: str) -> None:
    """Until the balancer's last word on a server is UP or DOWN."""
    last = f"journalctl --unit=haproxy | grep 'Server pool/{server.name} is' | tail -n 1"
    balancer.wait_until_succeeds(f"{last} | grep 'is {state}'")


def answers(count: int) -> set[str]:
    """What so many requests are answered; none of them may fail."""
    return set(client.succeed(f"curl -sSf 'http://balancer/?[1-{count}]' 2>&1").split())


with subtest("all servers get their share"):
    wait_all(servers, serve)
    balancer.succeed("systemctl start haproxy")
    balancer.wait_for_open_port(80)
    assert answers(9) == {"web1", "web2", "web3"}

with subtest("a server dies while a client keeps asking, and no request fails"):
    client.succeed(
        "systemd-run --quiet --unit=load sh -c 'while true; do"
        " curl -sSf --max-time 10 http://balancer/ >> /root/answers 2>&1; done'"
    )
    client.wait_until_succeeds("grep web2 /root/answers")
    web2.crash()
    wait_for_health(web2, "DOWN")
    assert answers(20) == {"web1", "web3"}
    client.succeed("systemctl stop load")
    assert set(client.succeed("cat /root/answers").splitlines()) == {"web1", "web2", "web3"}

with subtest("it gets its share again when it is back"):
    web2.start()
    serve(web2)
    wait_for_health(web2, "UP")
    assert answers(9) == {"web1", "web2", "web3"}
