//! Paths of a source into our own crate.

use super::tokens::{Token, is_word};

/// A path into our own crate, from its root on.
pub struct OwnPath {
    pub line: usize,
    pub segments: Vec<String>,
    pub re_exported: bool,
}

/// Every path of the code that starts at the crate's root, at the module or above it.
pub fn paths(module: &[&str], tokens: &[Token]) -> Vec<OwnPath> {
    let text = |i: Option<usize>| i.and_then(|i| tokens.get(i)).map_or("", |t| t.text);
    let mut found = vec![];
    let mut depth = 0;
    let mut inline: Vec<(&str, usize)> = vec![];
    for (i, token) in tokens.iter().enumerate() {
        let before = |n: usize| text(i.checked_sub(n));
        match token.text {
            "{" => {
                depth += 1;
                if before(2) == "mod" {
                    inline.push((before(1), depth));
                }
            }
            "}" => {
                inline.retain(|(_, opened)| *opened < depth);
                depth -= 1;
            }
            // A visibility: `pub(crate)`, `pub(super)`.
            "crate" | "super" | "self" if before(1) == "(" && before(2) == "pub" => {}
            "crate" | "super" | "self" | "batchjob_operator" => {
                let here: Vec<&str> = module.iter().copied().chain(inline.iter().map(|(name, _)| *name)).collect();
                let re_exported = before(1) == "use" && ["pub", ")"].contains(&before(2));
                found.extend(expand(tokens, i).into_iter().map(|(line, path)| OwnPath {
                    line,
                    segments: resolve(&here, &path),
                    re_exported,
                }));
            }
            _ => {}
        }
    }
    found
}

fn resolve(module: &[&str], path: &[&str]) -> Vec<String> {
    let mut at = module.to_vec();
    for segment in path {
        match *segment {
            "crate" | "batchjob_operator" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            name => at.push(name),
        }
    }
    at.into_iter().map(String::from).collect()
}

/// The path that begins at token `start`, or all of them if it holds groups, each with the line it ends on.
pub fn expand<'a>(tokens: &[Token<'a>], start: usize) -> Vec<(usize, Vec<&'a str>)> {
    let mut paths = vec![];
    expand_into(tokens, start, vec![], &mut paths);
    paths
}

/// Returns where the path ends.
fn expand_into<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    mut path: Vec<&'a str>,
    paths: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text);
    while text(at) != "{" {
        path.push(text(at));
        if text(at + 1) != "::" || !(is_word(text(at + 2)) || ["{", "*"].contains(&text(at + 2))) {
            paths.push((tokens[at].line, path));
            return at + 1;
        }
        at += 2;
    }
    at += 1;
    while !["}", ""].contains(&text(at)) {
        at = match is_word(text(at)) || text(at) == "*" {
            true => expand_into(tokens, at, path.clone(), paths),
            false => at + 1,
        };
        if text(at) == "as" {
            at += 2;
        }
    }
    at + 1
}

/// The module of a file, from the crate's root on: `["store", "lines"]` for `src/store/lines.rs`.
pub fn module_of(file: &str) -> Vec<&str> {
    let path = file.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut module: Vec<&str> = path.split('/').collect();
    if ["mod", "lib"].contains(module.last().unwrap()) {
        module.pop();
    }
    module
}
