# `lib.makeTest`: a test whose machines are attest's, for those who have no test of NixOS's framework yet.
{
  pkgs,
  name,
  nodes,
  testScript,
  vmm ? "qemu",
  vlans ? [ 1 ],
  memory ? 1024,
  vcpus ? 1,
  splitStore ? true,
  hugePages ? false,
  entropy ? true,
  firecrackerPackage ? pkgs.firecracker,
  cloudHypervisorPackage ? pkgs.cloud-hypervisor,
  warm ? true,
  kernelPackages ? null,
  replicas ? { },
}:
let
  inherit (builtins)
    all
    attrNames
    concatStringsSep
    elem
    isAttrs
    isBool
    isInt
    isList
    isPath
    isString
    match
    readFile
    toJSON
    typeOf
    ;
  inherit (pkgs) lib;

  vmms = [
    "qemu"
    "firecracker"
    "cloud-hypervisor"
  ];
  # What was found, for messages: a value, or the kind of one that has no short text.
  found =
    value:
    if isString value || isInt value || isBool value || value == null then
      toJSON value
    else if isList value && all (each: isInt each || isString each) value then
      toJSON value
    else
      "a ${typeOf value}";
  check =
    argument: value: isRight: right:
    if isRight then
      value
    else
      throw "makeTest: ${argument}: expected ${right}, found ${found value}";
  isWithin =
    least: most: value:
    isInt value && value >= least && value <= most;
  flag = argument: value: check argument value (isBool value) "true or false";
  program = argument: value: check argument value (isAttrs value && value ? outPath) "a package";

  checkedName = check "name" name (
    isString name && match "[A-Za-z0-9._-]+" name != null
  ) "letters, digits, `.`, `_` and `-`";
  checkedNodes = check "nodes" nodes (
    isAttrs nodes && nodes != { }
  ) "a set with a NixOS module for each machine";
  script = check "testScript" testScript (
    isString testScript || isPath testScript || lib.isFunction testScript
  ) "a string, a path, or a function of { nodes, ... }";
in
pkgs.testers.runNixOSTest {
  imports = [
    (import ./modules/test.nix (
      check "vmm" vmm (elem vmm vmms) "one of ${concatStringsSep ", " vmms}"
    ))
  ];
  name = checkedName;
  nodes = checkedNodes;
  testScript = if isPath script then readFile script else script;
  defaults = {
    virtualisation = {
      vlans = lib.mkDefault (
        check "vlans" vlans (
          isList vlans && all (isWithin 1 254) vlans
        ) "a list of numbers from 1 to 254"
      );
      memorySize = lib.mkDefault (
        check "memory" memory (isWithin 32 1048576 memory) "MiB, at least 32"
      );
      cores = lib.mkDefault (check "vcpus" vcpus (isWithin 1 64 vcpus) "a number from 1 to 64");
    };
    attest.entropy = flag "entropy" entropy;
  }
  // (
    # Ahead of the VMM's own default, behind what a node says.
    if kernelPackages == null then
      { }
    else
      {
        boot.kernelPackages = lib.mkOverride 900 (
          check "kernelPackages" kernelPackages (
            isAttrs kernelPackages && kernelPackages ? kernel
          ) "a set such as pkgs.linuxPackages_6_1"
        );
      }
  );
  attest = {
    splitStore = flag "splitStore" splitStore;
    hugePages = flag "hugePages" hugePages;
    warm = flag "warm" warm;
    firecrackerPackage = program "firecrackerPackage" firecrackerPackage;
    cloudHypervisorPackage = program "cloudHypervisorPackage" cloudHypervisorPackage;
    replicas = check "replicas" replicas (
      isAttrs replicas && all (node: isWithin 1 250 replicas.${node}) (attrNames replicas)
    ) "a set of nodes' names with how many machines each is";
  };
}
