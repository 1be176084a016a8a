# The programs in C, static: the agent for guests, and Firecracker's page-fault handler.
#
# `pkgsStatic.callPackage ./agent.nix { }`: musl, as the shared object that the agent carries and has a guest's bash load must
# need nothing that only one C library has. For guests of another architecture: `pkgsCross.aarch64-multiplatform.pkgsStatic`.
{
  lib,
  stdenv,
  versionCheckHook,
}:
let
  architecture = stdenv.hostPlatform.uname.processor;
in
stdenv.mkDerivation {
  pname = "attest-agent";
  version = builtins.head (
    builtins.match ".*AGENT_VERSION \"([^\"]*)\".*" (builtins.readFile ../agent/src/version.h)
  );

  src = lib.cleanSourceWith {
    name = "attest-agent-source";
    src = ../.;
    filter =
      path: _:
      builtins.match "(agent|uffd)(/(Makefile|bash|src)(/.*)?)?" (
        lib.removePrefix "${toString ../.}/" path
      ) != null;
  };

  strictDeps = true;
  __structuredAttrs = true;

  # What a newer compiler warns of is no reason not to have the programs.
  buildPhase = ''
    runHook preBuild
    for program in agent uffd; do
      make -C $program STATIC_CC="$CC" WARNINGS=-Wall build/attest-$program-${architecture}
    done
    runHook postBuild
  '';

  # The names with the architecture are those that attest's wheel is built with.
  installPhase = ''
    runHook preInstall
    for program in agent uffd; do
      install -D -t $out/bin $program/build/attest-$program-${architecture}
    done
    ln -s attest-agent-${architecture} $out/bin/attest-agent
    runHook postInstall
  '';

  nativeInstallCheckInputs = [ versionCheckHook ];
  doInstallCheck = true;

  meta = {
    description = "Agent that carries commands and files between attest and a virtual machine";
    license = lib.licenses.mit;
    mainProgram = "attest-agent";
    maintainers = [ ];
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
