# A kernel's uncompressed image by itself: it lies in the kernel's `dev` output, beside what pulls in compilers.
{
  stdenv,
  runCommand,
  kernel,
}:
runCommand "vmlinux-${kernel.version}"
  {
    nativeBuildInputs = [ stdenv.cc.bintools ];
    allowedReferences = [ ];
  }
  (
    if stdenv.hostPlatform.isAarch64 then
      "cp ${kernel}/Image $out"
    else
      ''
        cp --no-preserve=mode ${kernel.dev}/vmlinux $out
        $STRIP --strip-debug $out
      ''
  )
