start_all()

with subtest("a server exports its root"):
    server.succeed("echo '/ *(rw,no_root_squash,fsid=0,no_subtree_check)' >/etc/exports")
    server.succeed("systemctl start nfs-kernel-server", "exportfs -ra")
    server.wait_for_open_port(2049)

with subtest("a client reads and writes it"):
    client.succeed("mkdir /mnt/server", "mount -t nfs4 server:/ /mnt/server")
    assert client.succeed("cat /mnt/server/etc/hostname") == server.succeed("cat /etc/hostname")
    client.succeed("echo written > /mnt/server/srv/note")
    assert server.succeed("cat /srv/note") == "written\n"
    client.succeed("umount /mnt/server")
