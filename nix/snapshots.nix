# A test's snapshots: a machine of each shape is booted once, in a build, until the configuration changes.
{
  lib,
  runCommand,
  attest,
  qemu,
  name,
  manifest,
  requiredFeatures,
}:
runCommand "attest-snapshots-${name}"
  {
    nativeBuildInputs = [
      attest
      qemu
    ];
    requiredSystemFeatures = lib.attrNames (lib.filterAttrs (_: needed: needed) requiredFeatures);
    # Memory is gigabytes, and good for the processor alone that it was made on.
    preferLocalBuild = true;
    allowSubstitutes = false;
    __structuredAttrs = true;
    unsafeDiscardReferences.out = true;
  }
  ''
    attest cache make ${manifest} --into $out
  ''
