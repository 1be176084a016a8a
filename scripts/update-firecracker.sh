#!/usr/bin/env bash
# Pin the Firecracker that nix/firecracker.nix builds: writes its revision and hashes to nix/firecracker-pin.json.
#
#     scripts/update-firecracker.sh [--rev REV | --tag TAG] [OWNER/REPO]
#
# REV is a commit, with all its digits, or a branch; without REV and TAG it is the default branch's head. OWNER/REPO on GitHub is by default the pin's, else Firecracker's own.
# It needs Nix (with flakes), git and jq, and the network: it fetches the source and the crates that its Cargo.lock names.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pin=$root/nix/firecracker-pin.json

fail() {
    echo "update-firecracker: $1" >&2
    exit "${2:-1}"
}

usage="usage: scripts/update-firecracker.sh [--rev REV | --tag TAG] [OWNER/REPO]"
rev='' tag='' fork=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --rev | --tag)
            [[ -n ${2-} ]] || fail "$1 needs a value; $usage" 2
            declare "${1#--}=$2"
            shift 2
            ;;
        --help)
            echo "$usage"
            exit
            ;;
        */*)
            [[ -z $fork && $1 =~ ^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$ ]] || fail "$1 is no OWNER/REPO; $usage" 2
            fork=$1
            shift
            ;;
        *) fail "what is $1? $usage" 2 ;;
    esac
done
[[ -z $rev || -z $tag ]] || fail "a revision and a tag are two; $usage" 2

for tool in git jq nix; do
    command -v "$tool" >/dev/null || fail "$tool is missing: this needs git, jq and nix"
done

old=none
if [[ -e $pin ]]; then
    old=$(jq -r '"\(.owner)/\(.repo) \(.rev) (\(.version))"' "$pin") || fail "$pin is damaged: remove it"
    fork=${fork:-$(jq -r '"\(.owner)/\(.repo)"' "$pin")}
fi
fork=${fork:-firecracker-microvm/firecracker}
url=https://github.com/$fork

work=$(mktemp -d)
trap 'rm -rf "$work" "$pin.new"' EXIT

# A tag that is an object of its own has a second line, `^{}`, which names its commit.
if [[ ! $rev =~ ^[0-9a-f]{40}$ ]]; then
    wanted=HEAD
    [[ -z $rev ]] || wanted=refs/heads/$rev
    [[ -z $tag ]] || wanted=refs/tags/$tag
    git ls-remote "$url" "$wanted" "$wanted^{}" >"$work/refs" || fail "cannot ask $url: see git's message above"
    rev=$(tail -n 1 "$work/refs" | cut -f 1)
    [[ -n $rev ]] || fail "$url has no $wanted; a commit has to be named by all its 40 digits"
fi

echo "fetching $fork at $rev" >&2
nix --extra-experimental-features 'nix-command flakes' flake prefetch --json "github:$fork/$rev" >"$work/source" ||
    fail "cannot fetch $url at $rev: see Nix's message above"
source=$(jq -r .storePath "$work/source")
version=$(sed -n 's/^version *= *"\(.*\)"$/\1/p;T;q' "$source/src/firecracker/Cargo.toml") || true
[[ -n $version ]] || fail "$fork at $rev is no Firecracker: its src/firecracker/Cargo.toml gives no version"

# What is written: beside the pin, with a hash of the crates that cannot be right until Nix has said what is.
write() {
    jq -n --arg owner "${fork%/*}" --arg repo "${fork#*/}" --arg rev "$rev" --arg version "$version" \
        --arg hash "$(jq -r .hash "$work/source")" --arg cargoHash "$1" '$ARGS.named' >"$pin.new"
}

echo "fetching the crates of Firecracker $version" >&2
write "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
expression="
  let pkgs = (builtins.getFlake \"$root\").inputs.nixpkgs.legacyPackages.\${builtins.currentSystem};
  in (pkgs.callPackage \"$root/nix/firecracker.nix\" { } { pin = \"$pin.new\"; }).cargoDeps"
nix --extra-experimental-features 'nix-command flakes' build --no-link --impure --expr "$expression" 2>"$work/log" || true
cargo_hash=$(sed -n 's/^ *got: *\(sha256-[A-Za-z0-9+/=]*\)$/\1/p' "$work/log" | tail -n 1)
if [[ -z $cargo_hash ]]; then
    cat "$work/log" >&2
    fail "Nix has not told the hash of the crates: see its message above"
fi

write "$cargo_hash"
mv "$pin.new" "$pin"
echo "Firecracker: $old -> $fork $rev ($version)"
