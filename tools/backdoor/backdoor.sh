#!/bin/bash
export USER=root HOME=/root PAGER=
cd /tmp
exec </dev/hvc0 >/dev/hvc0 2>/dev/ttyS0
stty -F /dev/hvc0 raw -echo
echo 'Spawning backdoor root shell...'
PS1= exec bash --norc /dev/hvc0
