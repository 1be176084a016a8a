following = {a: "b", b: "c", c: "d", d: "a"}

start_all()

with subtest("each machine serves its own name"):
    wait_all(machines, lambda machine: machine.succeed("hostname > /var/www/html/index.html"))

with subtest("each machine fetches the page of the next"):
    pages = wait_all(
        machines,
        lambda machine: machine.succeed(f"curl --fail --silent http://{following[machine]}/"),
    )
    assert pages == ["b\n", "c\n", "d\n", "a\n"], pages
