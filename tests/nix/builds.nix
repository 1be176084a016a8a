# Derivations that run attest with no package set around them: the programs are the host's, which
# the tests lend to the sandbox.
{
  # The command line of `attest`, and the directory of its images.
  attest,
  images,
  # A QEMU's path; empty: the host's.
  qemu ? "",
}:

let
  build =
    name: commands:
    derivation {
      inherit name;
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [
        "-euc"
        ''
          mkdir -p "$NIX_BUILD_TOP/.cache/attest"
          ln -s ${images} "$NIX_BUILD_TOP/.cache/attest/images"
          ${commands}
        ''
      ];
      PATH = "/usr/bin:/usr/sbin:/bin";
      PYTHONDONTWRITEBYTECODE = "1";
      ATTEST_QEMU = qemu;
    };

  manifest =
    { script, node ? { } }:
    let
      nodes = {
        one = node // tiny;
        two = node // tiny;
      };
      tiny = {
        image = "tiny";
        memory = node.memory or 96;
      };
    in
    builtins.toFile "pair.json" (builtins.toJSON { inherit script nodes; });

  ping = ''
    start_all()
    one.succeed("ping -c 1 two")
    two.succeed("ping -c 1 one")
  '';

  run = "${attest} run --accel tcg --out $out";

  makeSnapshots = test: build "snapshots" "${attest} cache make --accel tcg --into $out ${test}";

  # A snapshot whose devices' state is not one, though its record says that it is.
  spoilt = build "spoilt" ''
    cp -r ${snapshots} $out
    chmod -R u+w $out
    for record in $out/*/entry.json; do
      sed -i 's/"state":{[^}]*}/"state":{"size":3,"changed_ns":0,"sha256":"'"$(
        { printf '\0\0\0\0\0\0\0\0'; printf bad; } | sha256sum | cut -d' ' -f1
      )"'"}/' $record
      printf bad > "''${record%/*}/state"
    done
  '';

  snapshots = makeSnapshots (manifest { script = "raise Exception('the script ran')"; });
in
{
  inherit snapshots;

  ping = build "ping" "${run} ${manifest { script = ping; }}";

  withoutTap = build "without-tap" "${run} ${manifest { script = ping; }}";

  failing = build "failing" "${run} ${manifest { script = ''one.succeed("echo why >&2; exit 3")''; }}";

  alone = build "alone" "${run} ${
    manifest {
      script = "one.succeed('true')";
      node.vlans = [ ];
    }
  }";

  fromSnapshots = build "from-snapshots" "${run} --snapshots ${snapshots} ${manifest { script = ping; }}";

  fromSpoilt = build "from-spoilt" "${run} --snapshots ${spoilt} ${manifest { script = ping; }}";

  # Neither the memory nor the QEMU is that of the snapshots.
  fromOthers = build "from-others" ''
    ln -s "$(command -v ''${ATTEST_QEMU:-qemu-system-${builtins.head (builtins.split "-" builtins.currentSystem)}})" other-qemu
    export ATTEST_QEMU=$PWD/other-qemu
    ${run} --snapshots ${snapshots} ${
      manifest {
        script = ping;
        node.memory = 100;
      }
    }
  '';

  kvm = build "kvm" "${attest} run --accel kvm --out $out ${manifest { script = ping; }}";

  hugepages = build "hugepages" "${run} --hugepages ${
    manifest {
      script = ping;
      node.memory = 1048576;
    }
  }";
}
