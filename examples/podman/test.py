PAGE = "curl --fail --silent --max-time 5 http://server:8080/"

with subtest("a container is built, and serves"):
    server.succeed(
        "cp /bin/busybox /srv/image/",
        "podman build --quiet --network=none --tag=web /srv/image",
        "podman create --name=web --publish=8080:8000 web",
        "podman generate systemd --name web > /etc/systemd/system/web.service",
        "systemctl enable --quiet --now web",
    )
    client.wait_until_succeeds(PAGE)
    assert client.succeed(PAGE) == "Hello from a container\n"

with subtest("it is alone in there, and not root"):
    assert server.succeed("podman exec web /bin/busybox stat -c %u /proc/1") == "1000\n"
    server.fail("podman exec web /bin/busybox touch /www/file")

with subtest("it gets no more memory than it may have"):
    dd = "/bin/busybox dd if=/dev/zero of=/dev/null bs=64M count=1"
    server.succeed(f"podman run --rm --network=none web {dd}")
    status, _ = server.execute(f"podman run --rm --network=none --memory=16m web {dd}")
    assert status == 137, status

with subtest("it comes back when the machine has rebooted"):
    server.reboot()
    client.wait_until_succeeds(PAGE)
