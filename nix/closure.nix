# A check of what `roots` need at run time: says how much that is, and fails where it has what only builds need.
#
#     pkgs.callPackage ./closure.nix { } { name = "web"; roots = [ test.driver ]; }
{
  runCommand,
  closureInfo,
}:
{
  name,
  roots,
  # Patterns of the shell's for names of store paths without their hash.
  forbidden ? [
    "linux-*-dev"
    "*gcc-*"
    "clang-*"
    "llvm-*"
    "rustc-*"
    "go-[0-9]*"
  ],
}:
runCommand "closure-${name}"
  {
    __structuredAttrs = true;
    preferLocalBuild = true;
    closure = closureInfo { rootPaths = roots; };
    inherit forbidden;
  }
  ''
    bash ${./closure-check.sh} ${name} "$closure" "''${forbidden[@]}" | tee "$out"
  ''
