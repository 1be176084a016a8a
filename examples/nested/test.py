with subtest("the group kvm may use it"):
    assert host.succeed("stat -c '%F, %G' /dev/kvm") == "character special file, kvm\n"

with subtest("QEMU boots a guest with KVM"):
    console = host.succeed(
        "qemu-system-x86_64 -accel kvm -cpu host -machine microvm,rtc=on -m 128"
        " -nodefaults -display none -no-reboot -serial stdio"
        " -kernel /vmlinuz -initrd /srv/initrd -append 'console=ttyS0 quiet reboot=t'"
    )
    assert "the inner guest runs Linux" in console, console
