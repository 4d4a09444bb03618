//! Import circles: between rooms, and between the files of a room.
//!
//! A file that uses what a parent `mod.rs` defines is not counted: a parent with the types that its children share is ordinary
//! Rust. A re-export counts as the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{EDGES, expand, path_end, paths_after, sources};

/// `infer::backend::ort`, in segments.
type Module = Vec<String>;

/// The files that each file uses.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

/// The code of each file of the library, by its module.
fn modules() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |path: &Path| {
        let relative = path.strip_prefix(&root).unwrap().with_extension("");
        let mut segments: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        segments.pop_if(|last| last == "mod");
        segments
    };
    EDGES.iter().flat_map(|(room, _)| sources(room)).map(|(path, code)| (module(&path), code)).collect()
}

/// What the `use` statements of a file bring into it: name → path.
fn imports(module: &Module, code: &str) -> BTreeMap<String, Module> {
    let mut names = BTreeMap::new();
    for (at, _) in code.match_indices("use ").filter(|(at, _)| starts_a_word(code, *at)) {
        let Some(end) = code[at..].find(';') else { continue };
        let statement = code[at + 4..at + end].split_whitespace().collect::<Vec<_>>().join(" ");
        for (path, alias) in expand(&statement) {
            let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
            names.insert(name, absolute(module, &path));
        }
    }
    names
}

fn starts_a_word(code: &str, at: usize) -> bool {
    !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// `path` as seen from the root of the crate.
fn absolute(module: &Module, path: &[String]) -> Module {
    match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        Some("super") => {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let kept = module.len().saturating_sub(ups);
            [&module[..kept], &path[ups..]].concat()
        }
        _ => [module.as_slice(), path].concat(),
    }
}

/// The file that defines what `path` names, through re-exports.
fn defining(path: &[String], imports: &BTreeMap<Module, BTreeMap<String, Module>>, depth: usize) -> Option<Module> {
    let length = (1..=path.len()).rev().find(|length| imports.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(length);
    match rest.first().and_then(|name| imports[module].get(name)) {
        Some(target) if depth > 0 => {
            defining(&[target.as_slice(), &rest[1..]].concat(), imports, depth - 1).or_else(|| Some(module.to_vec()))
        }
        _ => Some(module.to_vec()),
    }
}

/// The code without its re-exports, which use nothing themselves.
fn without_reexports(code: &str) -> String {
    let mut rest = String::new();
    let mut inside = false;
    for line in code.lines() {
        let trimmed = line.trim_start();
        inside |= trimmed.starts_with("pub use ") || (trimmed.starts_with("pub(") && trimmed.contains(") use "));
        if !inside {
            rest += line;
            rest.push('\n');
        }
        inside &= !line.ends_with(';');
    }
    rest
}

fn graph() -> Graph {
    let modules = modules();
    let imports: BTreeMap<Module, _> = modules.iter().map(|(name, code)| (name.clone(), imports(name, code))).collect();
    let mut graph = Graph::new();
    for (name, code) in &modules {
        let code = without_reexports(code);
        let mut paths: Vec<Module> = Vec::new();
        for start in ["crate", "super", "self"] {
            // `super::super::x` is found at its first `super`.
            let found = paths_after(&code, &format!("{start}::"));
            paths.extend(found.into_iter().map(|(path, _)| absolute(name, &[vec![start.to_owned()], path].concat())));
        }
        // A parent names its children without a prefix.
        for child in modules.keys().filter(|child| child.len() == name.len() + 1 && child.starts_with(name)) {
            let start = format!("{}::", child[name.len()]);
            paths.extend(paths_after(&code, &start).into_iter().map(|(path, _)| [child.as_slice(), &path].concat()));
        }
        let used = paths.iter().filter_map(|path| defining(path, &imports, 8));
        graph.insert(name.clone(), used.filter(|used| !name.starts_with(used)).collect());
    }
    graph
}

/// The strongly connected components of more than one node.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reach = |from: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop().and_then(|node| graph.get(node)) {
            open.extend(next.iter().filter(|node| seen.insert((*node).clone())));
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = graph.keys().map(|node| (node, reach(node))).collect();
    let of = |node: &Module| -> BTreeSet<String> {
        let mutual = reached[node].iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(node)));
        mutual.map(|module| module.join("/")).collect()
    };
    graph.keys().map(of).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn rooms_do_not_import_each_other_in_a_circle() {
    let mut rooms = Graph::new();
    for (file, used) in graph() {
        let used = used.into_iter().map(|module| vec![module[0].clone()]).filter(|room| *room != file[..1]);
        rooms.entry(vec![file[0].clone()]).or_default().extend(used);
    }
    assert!(rooms.values().map(BTreeSet::len).sum::<usize>() > 40, "is the reader of paths broken? {rooms:?}");
    assert_eq!(circles(&rooms), BTreeSet::new());
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let graph = graph();
    let describe = |circle: BTreeSet<String>| {
        let within = |module: &Module| circle.contains(&module.join("/"));
        let edges = graph.iter().filter(|(file, _)| within(file)).map(|(file, used)| {
            let used: Vec<String> = used.iter().filter(|used| within(used)).map(|used| used.join("/")).collect();
            format!("  {} uses {}\n", file.join("/"), used.join(", "))
        });
        edges.collect::<String>()
    };
    let found: Vec<String> = circles(&graph).into_iter().map(describe).collect();
    assert!(
        found.is_empty(),
        "files that import each other in a circle:\n{}Move what they share into a file that both use.",
        found.join("\n")
    );
}

#[test]
fn circles_are_found_through_super_groups_and_reexports() {
    let code = [
        ("a", "mod b; mod c;\npub use b::{Other as Name, More};\n"),
        ("a::b", "use super::c;\npub struct Other;"),
        ("a::c", "use crate::x;\nfn f(_: super::Name) {}"),
    ];
    let module = |name: &str| -> Module { name.split("::").map(str::to_owned).collect() };
    let imports: BTreeMap<Module, _> =
        code.iter().map(|(name, code)| (module(name), imports(&module(name), code))).collect();
    let defined = |path: &str| defining(&module(path), &imports, 8);
    assert_eq!(defined("a::Name"), Some(module("a::b")));
    assert_eq!(defined("a::More"), Some(module("a::b")));
    assert_eq!(defined("a::c::f"), Some(module("a::c")));
    assert_eq!(defined("x::y"), None);
    assert_eq!(absolute(&module("a::b"), &module("super::super::z::Q")), module("z::Q"));
    let edges = [("a::b", "a::c"), ("a::c", "a::b"), ("a", "a::b")];
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph.entry(module(from)).or_default().insert(module(to));
    }
    let circle: BTreeSet<String> = ["a/b".to_owned(), "a/c".to_owned()].into();
    assert_eq!(circles(&graph), BTreeSet::from([circle]));
    assert_eq!(path_end("x::{y, z}; more"), 9);
}
