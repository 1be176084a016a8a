#!/bin/bash
IFS=$', \t\n'
# NixOS's addresses: the last two numbers of a network card are its network and its machine.
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
for card in /sys/class/net/eth[1-9]; do
    test -e "$card" || continue
    IFS=: read -r _ _ _ _ vlan machine <"$card/address"
    ip addr add "192.168.$((16#$vlan)).$((16#$machine))/24" dev "${card##*/}"
    ip link set "${card##*/}" up
done
for word in $(</proc/cmdline); do
    case $word in backdoor.nodes=?*)
        number=0
        for name in ${word#*=}; do
            number=$((number + 1))
            echo "192.168.1.$number $name" >>/etc/hosts
        done
    esac
done
