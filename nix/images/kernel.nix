# A kernel by itself, as a VMM takes it. Beside it in the kernel's outputs lie modules, and what pulls in compilers.
{
  stdenv,
  runCommand,
  kernel,
  # The name in its output, such as bzImage.
  file,
  # Whether it is to be the uncompressed one, which Firecracker and Cloud Hypervisor take.
  uncompressed,
}:
runCommand "${if uncompressed then "vmlinux" else file}-${kernel.version}"
  {
    nativeBuildInputs = [ stdenv.cc.bintools ];
    allowedReferences = [ ];
  }
  (
    # On aarch64 the usual one is not compressed.
    if uncompressed && !stdenv.hostPlatform.isAarch64 then
      ''
        cp --no-preserve=mode ${kernel.dev}/vmlinux $out
        $STRIP --strip-debug $out
      ''
    else
      "cp ${kernel}/${file} $out"
  )
