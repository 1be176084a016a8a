ADDRESS = "192.168.1.200"


def wait_for_answer(server: Machine) -> None:
    """Until the server answers at the address that moves, and no other has that."""
    fetch = f"curl --fail --silent --max-time 2 http://{ADDRESS}/"
    client.wait_until_succeeds(f"{fetch} | grep --line-regexp {server.name}")
    for each in (main, spare):
        if each is not server and each.is_up():
            each.wait_until_fails(f"ip address show dev eth0 | grep {ADDRESS}")


main.succeed("sed -i 's/priority 100/priority 150/' /etc/keepalived/keepalived.conf")
for server in (main, spare):
    server.succeed(
        f"echo {server.name} > /var/www/html/index.html",
        "systemctl enable --quiet --now nginx keepalived",
    )

with subtest("the server of higher priority has the address"):
    wait_for_answer(main)

with subtest("it moves when the web server dies, and back when that runs again"):
    main.succeed("systemctl kill --signal=KILL nginx")
    wait_for_answer(spare)
    main.succeed("systemctl restart nginx")
    wait_for_answer(main)

with subtest("it moves when the machine dies, and back when that has booted"):
    main.crash()
    wait_for_answer(spare)
    main.start()
    wait_for_answer(main)
