# As much of nixpkgs' `lib` as attest's Nix files use.
let
  inherit (builtins)
    attrNames
    concatMap
    elemAt
    filter
    foldl'
    genList
    hasAttr
    isAttrs
    isFunction
    isString
    length
    listToAttrs
    map
    mapAttrs
    split
    stringLength
    substring
    ;
in
rec {
  inherit (builtins)
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    head
    isFunction
    length
    listToAttrs
    mapAttrs
    ;
  id = x: x;
  range = first: last: genList (index: first + index) (last - first + 1);
  imap1 = f: list: genList (index: f (index + 1) (elemAt list index)) (length list);
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  filterAttrs = keep: set: listToAttrs (concatMap (name: optional (keep name set.${name}) (nameValuePair name set.${name})) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  unique = foldl' (seen: each: if builtins.elem each seen then seen else seen ++ [ each ]) [ ];
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  optionalString = condition: text: if condition then text else "";
  optionalAttrs = condition: set: if condition then set else { };
  concatMapStringsSep = separator: f: list: builtins.concatStringsSep separator (map f list);
  concatLines = builtins.foldl' (text: line: text + line + "\n") "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasInfix = infix: text: length (split (escapeRegex infix) text) > 1;
  escapeRegex = builtins.replaceStrings [ "{" "}" "(" ")" "." "=" ] [ "[{]" "[}]" "[(]" "[)]" "[.]" "=" ];
  splitString = separator: text: filter isString (split (escapeRegex separator) text);
  removeSuffix =
    suffix: text:
    let
      rest = stringLength text - stringLength suffix;
    in
    if rest >= 0 && substring rest (-1) text == suffix then substring 0 rest text else text;
  escapeShellArg = text: "'${toString text}'";
  makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
  getExe = package: "${package}/bin/${package.meta.mainProgram or package.pname}";
  versionOlder = a: b: builtins.compareVersions a b < 0;
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  warnIf = condition: message: value: if condition then builtins.trace "warning: ${message}" value else value;
  last = list: elemAt list (length list - 1);
  tail = builtins.tail;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  cleanSourceWith = { src, ... }: src;
  licenses.mit = "MIT";
  isDerivation = value: isAttrs value && value.type or "" == "derivation";

  mkOption = option: option // { _type = "option"; };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  literalMD = id;
  literalExpression = id;
  # Types are not checked here.
  types = genAttrs [ "package" "bool" "str" "raw" ] id // {
    enum = id;
    nullOr = id;
    attrsOf = id;
    listOf = id;
    ints.positive = "positive";
  };
}
