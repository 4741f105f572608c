//! No two modules of a crate import each other, directly or through others: who reads one of them
//! would have to read them all.
//!
//! A module is a file. It imports another where it names one of its items, through any re-export;
//! the re-export itself, and a test's import, are none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Item, UseTree, Visibility};

use crate::run::Failure;

/// The roots of all crates of the workspace.
fn crates() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::new()];
    for group in [".", "examples", "tests"] {
        folders.extend(folders_in(Path::new(group)));
    }
    folders.retain(|folder| !folder.ends_with("benches"));
    let mut crates = Vec::new();
    for folder in folders {
        let source = folder.join("src");
        let mut roots = vec![source.join("lib.rs"), source.join("main.rs")];
        roots.extend(folders_in(&source.join("bin")).map(|it| it.join("main.rs")));
        crates.extend(roots.into_iter().filter(|root| root.is_file()));
    }
    crates.sort();
    crates.dedup();
    crates
}

fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
}

/// # Errors
/// With every circle, as the modules in it.
pub(crate) fn check() -> Result<(), Failure> {
    let mut found = Vec::new();
    for root in crates() {
        let modules = Modules::of(&root)?;
        let root = root.display();
        let circles = modules.circles();
        println!("{root}: {} modules", modules.files.len());
        found.extend(
            circles
                .into_iter()
                .map(|circle| format!("{root}: {}", circle.join(" → "))),
        );
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(Failure(format!(
            "modules import each other:\n{}",
            found.join("\n")
        ))),
    }
}

/// `["engine", "flight"]`; the root is empty.
type Name = Vec<String>;

/// The modules of a crate.
#[derive(Default)]
struct Modules {
    files: BTreeMap<Name, syn::File>,
    /// Where a re-exported name of a module comes from, as it is written.
    exports: BTreeMap<(Name, String), Name>,
}

impl Modules {
    fn of(root: &Path) -> Result<Self, Failure> {
        let mut modules = Self::default();
        let directory = root.parent().unwrap_or(Path::new(""));
        modules.read(Name::new(), root, directory)?;
        for (name, file) in &modules.files {
            for item in &file.items {
                if let Item::Use(import) = item
                    && !matches!(import.vis, Visibility::Inherited)
                {
                    leaves(&import.tree, Name::new(), &mut |path, known_as| {
                        modules
                            .exports
                            .insert((name.clone(), known_as), absolute(name, path));
                    });
                }
            }
        }
        Ok(modules)
    }

    fn read(&mut self, name: Name, path: &Path, directory: &Path) -> Result<(), Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        let file = syn::parse_file(&text).map_err(|error| failed(&error))?;
        for item in &file.items {
            let Item::Mod(module) = item else { continue };
            if module.content.is_some() || is_test(&module.attrs) {
                continue;
            }
            let own = module.ident.to_string();
            let (path, inside) = place(&own, directory, &module.attrs);
            let mut inner = name.clone();
            inner.push(own);
            self.read(inner, &path, &inside)?;
        }
        self.files.insert(name, file);
        Ok(())
    }

    /// The module that a path leads into.
    fn definer(&self, path: &[String], depth: usize) -> Option<Name> {
        let mut module = Name::new();
        for (at, segment) in path.iter().enumerate() {
            let mut inner = module.clone();
            inner.push(segment.clone());
            if self.files.contains_key(&inner) {
                module = inner;
                continue;
            }
            if let Some(target) = self.exports.get(&(module.clone(), segment.clone()))
                && depth < 8
            {
                let further = [&target[..], &path[at + 1..]].concat();
                return self.definer(&further, depth + 1);
            }
            return Some(module);
        }
        Some(module)
    }

    fn imports(&self) -> BTreeMap<&Name, BTreeSet<Name>> {
        self.files
            .iter()
            .map(|(name, file)| {
                let mut paths = Paths {
                    module: name,
                    found: Vec::new(),
                };
                paths.visit_file(file);
                let imports = paths
                    .found
                    .iter()
                    .filter_map(|path| self.definer(path, 0))
                    .filter(|imported| imported != name)
                    .collect();
                (name, imports)
            })
            .collect()
    }

    /// One circle for each module that is in any, the shortest, each named once.
    fn circles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for start in self.files.keys() {
            if seen.contains(start) {
                continue;
            }
            if let Some(circle) = shortest_way_back(&imports, start) {
                seen.extend(circle.iter().cloned());
                let names = circle.iter().map(shown);
                circles.push(names.chain([shown(start)]).collect());
            }
        }
        circles
    }
}

fn shown(name: &Name) -> String {
    match name.is_empty() {
        true => "the root".to_owned(),
        false => name.join("::"),
    }
}

fn shortest_way_back(imports: &BTreeMap<&Name, BTreeSet<Name>>, start: &Name) -> Option<Vec<Name>> {
    let mut ways = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in imports.get(way.last()?).into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// Where a module's file is, and where its own modules are.
fn place(own: &str, directory: &Path, attributes: &[syn::Attribute]) -> (PathBuf, PathBuf) {
    let own = own.trim_start_matches("r#");
    for attribute in attributes {
        if attribute.path().is_ident("path")
            && let syn::Meta::NameValue(value) = &attribute.meta
            && let syn::Expr::Lit(literal) = &value.value
            && let syn::Lit::Str(file) = &literal.lit
        {
            let path = directory.join(file.value());
            return (path, directory.join(own));
        }
    }
    let folder = directory.join(own);
    let as_folder = folder.join("mod.rs");
    match as_folder.is_file() {
        true => (as_folder, folder),
        false => (directory.join(format!("{own}.rs")), folder),
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        matches!(&attribute.meta, syn::Meta::List(list)
            if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}

/// Every name that a `use` brings, with its path.
fn leaves(tree: &UseTree, before: Name, take: &mut impl FnMut(Name, String)) {
    match tree {
        UseTree::Path(path) => {
            let before = [&before[..], &[path.ident.to_string()]].concat();
            leaves(&path.tree, before, take);
        }
        UseTree::Name(name) if name.ident == "self" => {
            let known_as = before.last().cloned().unwrap_or_default();
            take(before, known_as);
        }
        UseTree::Name(name) => {
            let known_as = name.ident.to_string();
            let path = [&before[..], std::slice::from_ref(&known_as)].concat();
            take(path, known_as);
        }
        UseTree::Rename(name) => {
            let path = [&before[..], &[name.ident.to_string()]].concat();
            take(path, name.rename.to_string());
        }
        UseTree::Glob(_) => take(before, "*".to_owned()),
        UseTree::Group(group) => {
            for tree in &group.items {
                leaves(tree, before.clone(), take);
            }
        }
    }
}

/// A path as the crate's root sees it; empty where it leads elsewhere.
fn absolute(module: &Name, path: Name) -> Name {
    let mut from = module.clone();
    let mut rest = &path[..];
    match rest.first().map(String::as_str) {
        Some("crate") => {
            from.clear();
            rest = &rest[1..];
        }
        Some("self") => rest = &rest[1..],
        _ => {
            while rest.first().is_some_and(|segment| segment == "super") {
                from.pop();
                rest = &rest[1..];
            }
        }
    }
    [&from[..], rest].concat()
}

/// The paths that a module names.
struct Paths<'a> {
    module: &'a Name,
    found: Vec<Name>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        if !matches!(import.vis, Visibility::Inherited) {
            return;
        }
        let module = self.module;
        let found = &mut self.found;
        leaves(&import.tree, Name::new(), &mut |path, _| {
            found.push(absolute(module, path));
        });
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        let names: Name = names.collect();
        if path.leading_colon.is_none() && names.len() > 1 {
            self.found.push(absolute(self.module, names));
        }
        syn::visit::visit_path(self, path);
    }
}
