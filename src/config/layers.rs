//! Files, variables and arguments laid on each other, and what cameras inherit.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Origin, Pos, Problem};
use super::mask::is_secret_key;
use super::section::{Kind as Takes, Section};
use super::tree::{Entry, Kind, Node, parse_text};

/// Turns short forms into long ones, so that files that use either can be merged.
pub(crate) fn expand(node: &mut Node, section: &'static Section) {
    let Kind::Map(entries) = &mut node.kind else {
        let text = node.text();
        let key = match section.short {
            [first, _] if text.contains("://") => first,
            [.., last] => last,
            [] => return,
        };
        if matches!(node.kind, Kind::Scalar(_)) {
            let entry = Entry { key: (*key).to_owned(), pos: node.pos.clone(), value: node.clone() };
            node.kind = Kind::Map(vec![entry]);
        }
        return;
    };
    for entry in entries {
        match (section.key(&entry.key).map(|key| key.kind), &mut entry.value.kind) {
            (Some(Takes::Section(below) | Takes::Optional(below)), _) => expand(&mut entry.value, below),
            (Some(Takes::Named(below)), Kind::Map(named)) => {
                named.iter_mut().for_each(|entry| expand(&mut entry.value, below));
            }
            _ => {}
        }
    }
}

/// Lays `over` on `base`: maps are merged key by key, everything else is replaced. `null` takes a value away.
///
/// A key that stands twice in one map stays there twice: that is reported later.
pub(crate) fn merge(base: Node, over: Node) -> Node {
    match (base, over) {
        (Node { kind: Kind::Map(mut entries), pos }, Node { kind: Kind::Map(over), .. }) => {
            for entry in over {
                match entries.iter_mut().find(|known| known.key == entry.key && known.pos.origin != entry.pos.origin) {
                    Some(known) => {
                        let below =
                            std::mem::replace(&mut known.value, Node { pos: entry.pos.clone(), kind: Kind::Null });
                        known.value = merge(below, entry.value);
                        known.pos = entry.pos;
                    }
                    None => entries.push(entry),
                }
            }
            Node { pos, kind: Kind::Map(entries) }
        }
        (base, Node { kind: Kind::Null, pos }) if matches!(base.kind, Kind::Null) => Node { pos, kind: Kind::Null },
        (_, over) => over,
    }
}

/// The tree in which each camera has what it inherits from `defaults`.
pub(crate) fn inherit(root: &Node) -> Node {
    let mut root = root.clone();
    let (Some(defaults), Kind::Map(entries)) = (root.get("defaults").cloned(), &mut root.kind) else { return root };
    for cameras in entries.iter_mut().filter(|entry| entry.key == "cameras") {
        let Kind::Map(cameras) = &mut cameras.value.kind else { continue };
        for camera in cameras {
            let file = camera.value.get("file").is_some();
            let Kind::Map(keys) = &mut camera.value.kind else { continue };
            for default in defaults.entries().iter().filter(|default| !(file && default.key == "reconnect")) {
                match keys.iter_mut().find(|own| own.key == default.key) {
                    Some(own) => fill(&mut own.value, &default.value),
                    None => keys.push(default.clone()),
                }
            }
        }
    }
    root
}

/// Adds the keys of `base` that `own` does not set.
fn fill(own: &mut Node, base: &Node) {
    match &mut own.kind {
        Kind::Null => *own = base.clone(),
        Kind::Map(entries) => {
            entries.retain(|entry| !matches!(entry.value.kind, Kind::Null));
            let missing: Vec<Entry> =
                base.entries().iter().filter(|base| entries.iter().all(|own| own.key != base.key)).cloned().collect();
            entries.extend(missing);
        }
        _ => {}
    }
}

/// The tree of one `path=value`. `written` is the path as the user wrote it, its keys starting at byte `skip`.
pub(crate) fn override_tree(
    index: usize,
    label: String,
    written: &str,
    skip: usize,
    path: &str,
    value: &str,
) -> Result<Node, Problem> {
    let text = format!("{written}={value}");
    let origin = Arc::new(Origin { index, label, text, base: PathBuf::new() });
    let value_column = written.chars().count() + 2;
    let last = path.rsplit('.').next().unwrap_or(path);
    let place = |column, width: usize| Pos { origin: origin.clone(), line: 1, column, width: width.max(1) };
    let pos = place(value_column, value.chars().count());
    // Lists and maps are YAML. Any other text is taken as it is: no quoting inside the shell's quoting.
    let mut node = if value.starts_with(['[', '{']) && !value.starts_with("${") && !is_secret_key(last) {
        // Spaces in front keep the columns of the argument.
        parse_text(&origin, &format!("{}{value}", " ".repeat(value_column - 1)))?
    } else if value.is_empty() || value == "null" || value == "~" {
        Node { pos, kind: Kind::Null }
    } else {
        Node::scalar(pos, value)
    };
    let mut end = written.chars().count() + 1;
    let separator = if skip > 0 { 2 } else { 1 };
    for key in path.rsplit('.') {
        let width = key.chars().count();
        let column = end.saturating_sub(width).max(1);
        let pos = place(column, width);
        if key.is_empty() {
            return Err(Problem::new("an empty key").at(&pos).hint("write the keys as in `mqtt.url`"));
        }
        let entry = Entry { key: key.to_owned(), pos: pos.clone(), value: node };
        node = Node { pos, kind: Kind::Map(vec![entry]) };
        end = column.saturating_sub(separator);
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::tree::parse;

    fn tree(index: usize, text: &str) -> Node {
        parse(&Arc::new(Origin { index, label: "t.yaml".into(), text: text.into(), base: "".into() })).unwrap()
    }

    #[test]
    fn later_values_win_and_maps_are_merged() {
        let merged = merge(tree(0, "a: {b: 1, c: 2}\nd: 3"), tree(1, "a: {c: 4, e: 5}\nd: {f: 6}"));
        let a: Vec<_> =
            merged.get("a").unwrap().entries().iter().map(|entry| (entry.key.as_str(), entry.value.text())).collect();
        assert_eq!(a, [("b", "1"), ("c", "4"), ("e", "5")]);
        assert_eq!(merged.at(["d", "f"]).unwrap().text(), "6");
    }

    #[test]
    fn a_camera_inherits_what_it_does_not_set() {
        let root = "defaults: {detect: {iou: 1, fps: 2}, reconnect: {max: 3}}\n\
                    cameras: {a: {detect: {iou: 4, fps: ~}}, b: {file: x}}";
        let root = inherit(&tree(0, root));
        let text = |camera, section, key| root.at(["cameras", camera, section, key]).map(Node::text);
        assert_eq!([text("a", "detect", "iou"), text("a", "detect", "fps")], [Some("4"), Some("2")]);
        assert_eq!([text("b", "detect", "iou"), text("a", "reconnect", "max")], [Some("1"), Some("3")]);
        assert_eq!(text("b", "reconnect", "max"), None, "nothing connects a file again");
    }
}
