machine.start()

with subtest("the root is as large as it was asked to be"):
    size = int(machine.succeed("df --block-size=1M --output=size / | tail -n 1"))
    assert 400 < size <= 448, size

with subtest("overlays of containers can lie on it"):
    machine.succeed(
        "mkdir -p /srv/lower /srv/upper /srv/work /srv/merged",
        "mount -t overlay -o lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work "
        "overlay /srv/merged",
        "echo written > /srv/merged/file",
    )
    assert machine.succeed("cat /srv/upper/file") == "written\n"

with subtest("a full root is an error of who writes, and of nobody else"):
    told = machine.fail("dd if=/dev/zero of=/big bs=1M status=none 2>&1")
    assert "No space left on device" in told, told
    machine.fail("echo more > /more && sync /more")
    assert machine.succeed("df --output=pcent / | tail -n 1").strip() == "100%"
    machine.succeed("systemctl is-system-running", "systemd-run --wait --quiet true")

with subtest("a machine boots with a full root"):
    machine.fail("cat /dev/zero > /rest")
    machine.reboot()
    machine.crash()
    assert machine.succeed("df --output=pcent / | tail -n 1").strip() == "100%"

with subtest("it goes on when there is room again"):
    machine.succeed("rm /big /rest", "echo more > /more", "sync /more")

with subtest("nothing was killed for its memory"):
    machine.fail("dmesg | grep -i 'out of memory'")
