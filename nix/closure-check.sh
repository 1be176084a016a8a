#!/usr/bin/env bash
# closure-check.sh NAME CLOSURE-INFO PATTERN...: the size of a closure; fails when a path's name has one of the patterns.
# CLOSURE-INFO is what nixpkgs' closureInfo makes: a directory with `store-paths` and `total-nar-size`.
set -euo pipefail

name=$1 closure=$2
shift 2

mapfile -t paths <"$closure/store-paths"
size=$(($(<"$closure/total-nar-size") * 10 / 1048576))
echo "$name: $((size / 10)).$((size % 10)) MiB in ${#paths[@]} paths"

status=0
for path in "${paths[@]}"; do
    base=${path##*/}
    base=${base#*-} # the hash
    case $base in
        *-lib | *-libgcc) continue ;; # a compiler's library, which its programs need
    esac
    for pattern; do
        # shellcheck disable=SC2053 # it is a pattern
        if [[ $base == $pattern ]]; then
            echo "$name: $path is not for run time: its name is one of $pattern" >&2
            status=1
        fi
    done
done
exit "$status"
