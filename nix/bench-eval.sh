#!/usr/bin/env bash
# What the evaluation of a test costs, by nixpkgs' framework and by attest: thunks, which are exact, then CPU seconds and
# memory, which are not.
#
# Usage: nix/bench-eval.sh [NIXPKGS]     a checkout of nixpkgs; default: <nixpkgs>
set -euo pipefail

nixpkgs=${1:-$(nix-instantiate --find-file nixpkgs)}
bench=$(dirname "$(realpath "$0")")/bench.nix
stats=$(mktemp)
trap 'rm -f "$stats"' EXIT
# Collecting garbage is a third of the CPU time and more.
export GC_INITIAL_HEAP_SIZE=${GC_INITIAL_HEAP_SIZE:-3g}
export NIX_SHOW_STATS=1 NIX_SHOW_STATS_PATH=$stats

field() { sed -n "s/^ *\"$1\": \([0-9.]*\),\?$/\1/p" "$stats" | head -n 1; }

printf '%-20s %12s %10s %12s\n' test thunks 'CPU s' 'heap MiB'
for test in nixpkgs-1 attest-1 nixpkgs-4 attest-4 nixpkgs-8 attest-8 attest-4-replicas attest-8-replicas; do
    nix-instantiate --eval -E "
        let pkgs = import $(realpath "$nixpkgs")/pkgs/top-level/impure.nix { };
        in (import $bench { inherit pkgs; }).$test.drvPath" >/dev/null
    printf '%-20s %12s %10.1f %12d\n' "$test" "$(field nrThunks)" "$(field cpuTime)" $(("$(field totalBytes)" >> 20))
done
