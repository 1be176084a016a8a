start_all()
source.succeed(
    "mkdir -p /srv/data/sub",
    "echo one > /srv/data/a",
    "echo two > /srv/data/sub/b",
    "ln -s a /srv/data/link",
    "chmod 640 /srv/data/a",
    "printf '%s\\n' '[data]' 'path = /srv/data' 'read only = yes' 'uid = root' > /etc/rsyncd.conf",
    "systemctl start rsync",
)
source.wait_for_unit("rsync.service")
source.wait_for_open_port(873)

with subtest("a first copy is whole"):
    target.succeed("rsync -a rsync://source/data/ /srv/copy/")
    assert target.succeed("cat /srv/copy/link /srv/copy/sub/b") == "one\ntwo\n"
    assert target.succeed("stat -c %a /srv/copy/a") == "640\n"

with subtest("the next takes what has changed only"):
    source.succeed("echo three > /srv/data/c", "rm /srv/data/sub/b")
    changes = target.succeed("rsync -ai --delete rsync://source/data/ /srv/copy/")
    assert "c" in changes and "deleting   sub/b" in changes, changes
    assert " a" not in changes

with subtest("nobody writes to it"):
    target.fail("rsync /etc/hostname rsync://source/data/")
