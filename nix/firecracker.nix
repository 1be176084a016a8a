# Firecracker: nixpkgs', or the same built from a fork or another revision.
#
#     pkgs.callPackage ./firecracker.nix { } { }                                          # as nixpkgs has it, or as pinned
#     pkgs.callPackage ./firecracker.nix { } { src = inputs.firecracker; cargoHash = "sha256-…"; }
#
# The pin is ./firecracker-pin.json, which scripts/update-firecracker.sh writes; until it was run, there is none.
{
  lib,
  fetchFromGitHub,
  firecracker,
  rustPlatform,
}:
{
  # A source tree, such as a flake's input (`flake = false`).
  src ? null,
  # The hash of the crates that its Cargo.lock names; `lib.fakeHash` makes Nix say the right one.
  cargoHash ? null,
  # What its binary says; to be given where `src` is a derivation, which Nix would have to build to read it.
  version ? null,
  pin ? ./firecracker-pin.json,
}:
let
  build =
    {
      src,
      version,
      cargoHash,
    }:
    # `cargoHash` is an argument of the package's and no attribute: the crates are overridden themselves.
    firecracker.overrideAttrs {
      inherit src version;
      cargoDeps = rustPlatform.fetchCargoVendor {
        pname = "firecracker";
        inherit src version;
        hash = cargoHash;
      };
    };

  manifest = src + "/src/firecracker/Cargo.toml";
  written =
    if lib.isDerivation src then
      throw "firecracker.nix: `src` is a derivation, so give `version` too: that of its src/firecracker/Cargo.toml"
    else if !lib.pathExists manifest then
      throw "firecracker.nix: `src` is no Firecracker: it has no src/firecracker/Cargo.toml"
    else
      (lib.importTOML manifest).package.version;
in
if src != null then
  if cargoHash == null then
    throw "firecracker.nix: `src` needs `cargoHash`: give lib.fakeHash, and Nix says the right one"
  else
    build {
      inherit src cargoHash;
      version = if version == null then written else version;
    }
else if cargoHash != null || version != null then
  throw "firecracker.nix: `cargoHash` and `version` describe `src`, which was not given"
else if lib.pathExists pin then
  let
    pinned = lib.importJSON pin;
  in
  build {
    src = fetchFromGitHub { inherit (pinned) owner repo rev hash; };
    inherit (pinned) version cargoHash;
  }
else
  firecracker
