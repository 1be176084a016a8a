#!/bin/bash
# NixOS's addresses: the last two numbers of a network card are its network and its machine.
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
for card in /sys/class/net/eth[1-9]; do
    test -e "$card" || continue
    IFS=: read -r _ _ _ _ vlan machine <"$card/address"
    ip addr add "192.168.$((16#$vlan)).$((16#$machine))/24" dev "${card##*/}"
    ip link set "${card##*/}" up
done
# The first network has the machines' names.
for word in $(</proc/cmdline); do
    test "${word%%=*}" = backdoor.nodes || continue
    IFS=, read -ra names <<<"${word#*=}"
    for number in "${!names[@]}"; do
        echo "192.168.1.$((number + 1)) ${names[number]}" >>/etc/hosts
    done
done
