# attest, the driver: `pkgs.callPackage ./package.nix { }`.
#
# It carries what every test needs but the VMM, which is taken from PATH: `extraPackages` are found before what is there, such as
# `qemu_test`, `firecracker`, `openssh` (whose ssh-keygen is faster than an emulated guest's), `tesseract` (text on screens), or
# `mmdebstrap`, `apt`, `dpkg`, `e2fsprogs`, `kmod` and `lz4`, which build images of Debian.
{
  lib,
  python3Packages,
  pkgsStatic,
  bashNonInteractive,
  coreutils,
  e2fsprogs,
  iproute2,
  util-linuxMinimal,
  versionCheckHook,
  extraPackages ? [ ],
}:
let
  agent = pkgsStatic.callPackage ./agent.nix { };
in
python3Packages.buildPythonApplication (finalAttrs: {
  pname = "attest";
  version = builtins.head (
    builtins.match ".*\n__version__ = \"([^\"]*)\".*" (builtins.readFile ../src/attest/__init__.py)
  );
  pyproject = true;

  # What the wheel is made of; the tests, which boot machines of their own, are not run here.
  src = lib.cleanSourceWith {
    name = "attest-source";
    src = ../.;
    filter =
      path: _:
      builtins.match "LICENSE|README.md|hatch_build.py|pyproject.toml|src(/.*)?|tools(/build_programs.py)?" (
        lib.removePrefix "${toString ../.}/" path
      ) != null
      && !(lib.elem (baseNameOf path) [
        "__pycache__"
        "bin" # programs that a checkout has compiled
      ]);
  };

  __structuredAttrs = true;

  build-system = [ python3Packages.hatchling ];

  dependencies = [
    python3Packages.click
    python3Packages.msgspec
    python3Packages.qemu-qmp
    python3Packages.rich
  ];

  optional-dependencies = {
    check = [
      python3Packages.mypy
      python3Packages.pyflakes
    ];
    console = [ python3Packages.ptpython ];
    junit = [ python3Packages.junitparser ];
    screen = [ python3Packages.pillow ];
  };

  env.ATTEST_AGENT_DIR = "${agent}/bin";

  makeWrapperArgs = [
    "--prefix"
    "PATH"
    ":"
    (lib.makeBinPath (
      extraPackages
      ++ [
        bashNonInteractive
        coreutils
        e2fsprogs
        iproute2
        util-linuxMinimal
      ]
    ))
  ];

  pythonImportsCheck = [
    "attest"
    "attest.cli.command"
    "attest.cluster.cluster"
  ];

  nativeCheckInputs = [ versionCheckHook ];

  passthru = { inherit agent; };

  meta = {
    description = "VM integration tests that start like unit tests";
    license = lib.licenses.mit;
    mainProgram = "attest";
    maintainers = [ ];
    platforms = agent.meta.platforms;
  };
})
