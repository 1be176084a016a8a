# A file system (erofs) with the closure of `rootPaths`, for /nix/store, and at its top the registration of the paths.
{
  lib,
  runCommand,
  closureInfo,
  erofs-utils,
  name,
  label,
  rootPaths,
}:
let
  closure = closureInfo { inherit rootPaths; };
in
runCommand "${name}-store.erofs"
  {
    nativeBuildInputs = [ erofs-utils ];
    # The image holds the paths' names, which are no references to what is in the store of the machine that uses it.
    __structuredAttrs = true;
    unsafeDiscardReferences.out = true;
    passthru.registration = builtins.unsafeDiscardStringContext "${closure}/registration";
  }
  # Equal content makes equal bytes. The closure's own description is in the image for its registration.
  ''
    { cat ${closure}/store-paths; echo ${closure}; } | sed "s|^$NIX_STORE/||" | sort > paths
    tar --create --directory "$NIX_STORE" --files-from paths \
      --sort name --mtime @1 --owner 0 --group 0 --numeric-owner \
      | mkfs.erofs --quiet --tar=f -L ${lib.escapeShellArg label} -T 1 -U clear $out
  ''
