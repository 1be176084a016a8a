# A small evaluator of modules: imports, conditions, priorities and `apply`, no types and no checks.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    head
    isAttrs
    isFunction
    isList
    isPath
    mapAttrs
    ;
  kind = value: if isAttrs value then value._type or "" else "";

  # A definition's parts below the wrappers, each as { priority, use, value }; `use` is evaluated for leaves alone.
  parts =
    definition:
    let
      content = parts definition.content;
    in
    if kind definition == "if" then
      map (part: part // { use = definition.condition && part.use; }) content
    else if kind definition == "override" then
      map (part: part // { inherit (definition) priority; }) content
    else if kind definition == "merge" then
      concatMap parts definition.contents
    else
      [
        {
          priority = 100;
          use = true;
          value = definition;
        }
      ];

  isTree = value: isAttrs value && !(value ? _type) && !(lib.isDerivation value);

  wrap =
    part: value:
    lib.mkIf part.use (if part.priority == 100 then value else lib.mkOverride part.priority value);

  # All definitions of one place, whose options below it are `options`.
  merge =
    options: definitions:
    let
      all = concatMap parts definitions;
      isOption = kind options == "option";
      used = filter (part: part.use) all;
      highest = foldl' (best: part: if part.priority < best then part.priority else best) 9999 used;
      values = map (part: part.value) (filter (part: part.priority == highest) used);
      value =
        if values == [ ] then
          options.default or (throw "an option has no value")
        else if isList (head values) then
          builtins.concatLists values
        else if isAttrs (head values) && !(lib.isDerivation (head values)) then
          foldl' (a: b: a // b) { } values
        else if builtins.isString (head values) && builtins.length values > 1 then
          builtins.concatStringsSep "" values
        else
          head values;
      names = attrNames (foldl' (set: part: set // part.value) (if isAttrs options then options else { }) all);
    in
    if isOption then
      (options.apply or lib.id) value
    else if builtins.all (part: isTree part.value) all then
      lib.genAttrs names (
        name:
        merge (options.${name} or { }) (
          concatMap (part: lib.optional (part.value ? ${name}) (wrap part part.value.${name})) all
        )
      )
    else
      value;

  mergeOptions =
    a: b:
    if kind a == "option" || kind b == "option" then
      a // b
    else
      a
      // mapAttrs (name: value: if a ? ${name} then mergeOptions a.${name} value else value) b;

  load =
    args: module:
    if isPath module then
      load args (import module)
    else if isFunction module then
      load args (module (builtins.intersectAttrs (builtins.functionArgs module) args))
    else
      [ module ] ++ concatMap (load args) (module.imports or [ ]);

  configOf =
    module:
    if module ? config || module ? options then
      module.config or { }
    else
      removeAttrs module [
        "imports"
        "key"
        "_file"
      ];
in
{
  # What the modules say together.
  evalModules =
    { modules, args }:
    let
      loaded = concatMap (load (args // { inherit lib config options; })) modules;
      options = foldl' mergeOptions { } (map (module: module.options or { }) loaded);
      config = merge options (map configOf loaded);
    in
    config;
}
