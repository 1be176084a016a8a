machine.succeed(
    """cat > /etc/logrotate.d/app <<'EOF'
/var/log/app.log {
    rotate 2
    size 1k
    compress
    delaycompress
    postrotate
        touch /run/rotated
    endscript
}
EOF"""
)


def rotate() -> None:
    machine.succeed("head -c 2000 /dev/zero | tr '\\0' x > /var/log/app.log")
    machine.succeed("logrotate -s /run/logrotate.status /etc/logrotate.d/app")


with subtest("a small log stays"):
    machine.succeed("echo short > /var/log/app.log", "logrotate -s /run/s /etc/logrotate.d/app")
    machine.fail("test -e /var/log/app.log.1")

with subtest("a large one is rotated, older ones are compressed, the oldest goes"):
    for _ in range(4):
        rotate()
    machine.wait_for_file("/run/rotated")
    names = machine.succeed("ls /var/log").split()
    assert "app.log.1" in names and "app.log.2.gz" in names
    assert "app.log.3.gz" not in names
    assert machine.succeed("zcat /var/log/app.log.2.gz | wc -c") == "2000\n"
