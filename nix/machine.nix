# A NixOS configuration as a machine of a manifest, `attest schema` has its keys.
#
# Plain functions from plain values: no package set, no module system. `config` is a node's, of which they read
# `virtualisation`, `networking` and `attest`.
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatMap
    concatStringsSep
    elem
    filter
    isInt
    length
    listToAttrs
    map
    sort
    toString
    ;

  # No PM timer and no VGA in a microVM; the VMM names the console.
  withoutHardware = filter (
    parameter:
    !(elem parameter [
      "clocksource=acpi_pm"
      "console=tty0"
      "console=ttyS0"
      "console=ttyAMA0"
    ])
  );

  # In the order of the network cards: `vlans` are eth1 and so on, interfaces of other names come behind.
  vlansOf =
    {
      vlans,
      interfaces ? { },
      ...
    }:
    vlans ++ map (interface: interface.vlan) (attrValues interfaces);

  # A disk's size in MiB: NixOS takes a number, or since 23.11 a set with `size`.
  sizeOf = disk: if isInt disk then disk else disk.size;

  # What a microVM has no place for: each is an option's name, and whether it is used.
  unserved =
    virtualisation:
    filter (each: each.used) [
      {
        option = "virtualisation.useBootLoader";
        used = virtualisation.useBootLoader or false;
      }
      {
        option = "virtualisation.useEFIBoot";
        used = virtualisation.useEFIBoot or false;
      }
      {
        option = "virtualisation.directBoot.enable";
        used = !(virtualisation.directBoot.enable or true);
      }
      {
        option = "virtualisation.tpm.enable";
        used = virtualisation.tpm.enable or false;
      }
      {
        option = "virtualisation.useDefaultFilesystems";
        used = !(virtualisation.useDefaultFilesystems or true);
      }
      {
        option = "virtualisation.sharedDirectories";
        used = (virtualisation.sharedDirectories or { }) != { };
      }
      {
        option = "virtualisation.bios";
        used = (virtualisation.bios or null) != null;
      }
      {
        option = "virtualisation.credentials";
        used = (virtualisation.credentials or { }) != { };
      }
      {
        option = "virtualisation.forwardPorts";
        used = (virtualisation.forwardPorts or [ ]) != [ ];
      }
      {
        option = "virtualisation.emptyDiskImages.*.driveConfig";
        used = !(all (
          disk:
          isInt disk
          ||
            (disk.driveConfig.driveExtraOpts or { }) == { }
            && (disk.driveConfig.deviceExtraOpts or { }) == { }
        ) (virtualisation.emptyDiskImages or [ ]));
      }
      {
        option = "virtualisation.vlans";
        used = !(fits (vlansOf virtualisation));
      }
    ];

  # attest's networks have the numbers 1 to 254, and a machine is on each once.
  fits =
    vlans:
    all (
      vlan: vlan >= 1 && vlan <= 254 && length (filter (other: other == vlan) vlans) == 1
    ) vlans;

  # An interface that is as the test framework has it: its addresses, and nothing else.
  isUsual =
    number: interface: settings:
    (map (each: each.address) settings.ipv4.addresses)
    == [ "192.168.${toString interface.vlan}.${toString number}" ]
    && (map (each: each.address) settings.ipv6.addresses)
    == [ "2001:db8:${toString interface.vlan}::${toString number}" ]
    && all (each: (each.prefixLength or 24) == 24) settings.ipv4.addresses
    && all (each: (each.prefixLength or 64) == 64) settings.ipv6.addresses
    && (settings.ipv4.routes or [ ]) == [ ]
    && (settings.ipv6.routes or [ ]) == [ ]
    && (settings.macAddress or null) == null
    && (settings.mtu or null) == null
    && !(settings.virtual or false)
    && (settings.useDHCP or null) != true;
in
rec {
  inherit unserved vlansOf;

  # The label of the file system with the machines' store.
  storeLabel = "nix-store";

  # The label of the empty file system that a machine gets for its root.
  rootLabel = "attest-root";

  # Why `testModules.attest` and its like cannot run a node; an assertion for each.
  assertions =
    name: virtualisation:
    map (each: {
      assertion = false;
      message = refusal name each.option;
    }) (unserved virtualisation);

  refusal =
    name: option:
    "nodes.${name}: ${option}: a microVM cannot serve it; "
    + "attest's testModules.qemu keeps NixOS's own virtual machines, which can";

  # Whether nothing but the framework says who the node is, so that attest can say it when the machine runs, and nodes
  # that are equal but for that become one system.
  isAnonymous =
    {
      networking,
      virtualisation,
      networkd ? false,
    }:
    networking.hostName == virtualisation.test.nodeName
    && networking.domain == null
    && (networking.defaultGateway or null) == null
    && (networking.defaultGateway6 or null) == null
    && !networkd
    && virtualisation.interfaces == { }
    && attrNames networking.interfaces == attrNames virtualisation.allInterfaces
    && all (
      name:
      isUsual virtualisation.test.nodeNumber virtualisation.allInterfaces.${name}
        networking.interfaces.${name}
    ) (attrNames networking.interfaces);

  # The guest that a node's machine boots, as an image's description: docs/images.md has its keys.
  description =
    {
      arch,
      toplevel,
      kernelParams,
      registration,
      kernel,
      initrd,
      root,
      kernelVersion,
      onDisk ? false,
    }:
    {
      # Equal guests have equal descriptions, whatever the nodes are called.
      name = "nixos";
      inherit
        arch
        kernel
        initrd
        root
        ;
      vmlinux = kernel; # whichever of both forms the VMM takes
      kernel_version = kernelVersion;
      init = "systemd";
      own_initrd = true;
      cmdline = withoutHardware kernelParams ++ [
        "init=${toplevel}/init"
        "regInfo=${registration}"
      ];
    }
    // (if onDisk then { root_label = rootLabel; } else { });

  # The manifest's entry for a node.
  node =
    {
      virtualisation,
      networking,
      attest,
      image,
      vmm,
      hugePages ? false,
      graphics ? false,
      number ? virtualisation.test.nodeNumber,
    }:
    {
      inherit image vmm number;
      memory = virtualisation.memorySize;
      vcpus = virtualisation.cores;
      vlans = vlansOf virtualisation;
      spare_eth0 = true; # there NixOS's machines have QEMU's user network
      ipv6 = !attest.bakeIdentity && (networking.enableIPv6 or true);
      own_identity = attest.bakeIdentity;
      ready_unit = attest.readyUnit;
      disks = map (disk: { size = sizeOf disk; }) (virtualisation.emptyDiskImages or [ ]);
    }
    // (
      if (attest.root or "memory") == "disk" && isInt (virtualisation.diskSize or null) then
        { root_size = virtualisation.diskSize; }
      else
        { }
    )
    // (if hugePages then { hugepages = true; } else { })
    // (if graphics then { graphics = true; } else { });

  # The machines of a test: a node's, and its replicas'. The first replica has the node's number, the others come behind
  # all nodes, so that addresses that other nodes were told stay true.
  machines =
    {
      nodes,
      replicas ? { },
    }:
    let
      names = sort (a: b: a < b) (attrNames nodes);
      unknown = filter (name: !(nodes ? ${name})) (attrNames replicas);
      further = concatMap (
        name:
        builtins.genList (index: {
          node = name;
          name = "${name}${toString (index + 2)}";
        }) ((replicas.${name} or 1) - 1)
      ) names;
      taken = filter (name: nodes ? ${name}) (
        map (each: each.name) further ++ map (name: "${name}1") (attrNames replicas)
      );
      numbered = builtins.genList (index: {
        inherit (builtins.elemAt further index) name;
        value = nodes.${(builtins.elemAt further index).node} // {
          number = length names + index + 1;
        };
      }) (length further);
      own = map (name: {
        name = if replicas ? ${name} then "${name}1" else name;
        value = nodes.${name};
      }) names;
    in
    if unknown != [ ] then
      throw (
        "attest.replicas.${builtins.head unknown}: there is no such node; "
        + "there are: ${concatStringsSep ", " names}"
      )
    else if taken != [ ] then
      throw "attest.replicas: a replica would be called ${builtins.head taken}, as a node is"
    else
      listToAttrs (own ++ numbered);

  # The manifest of a test, without its script.
  manifest =
    {
      name,
      machines,
      timeout,
      vlans ? [ ],
      firecracker ? null,
      cloudHypervisor ? null,
    }:
    {
      inherit name timeout vlans;
      nodes = machines;
    }
    // (if firecracker == null then { } else { inherit firecracker; })
    // (if cloudHypervisor == null then { } else { cloud_hypervisor = cloudHypervisor; });
}
