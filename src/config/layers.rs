//! Files, variables and arguments laid on each other, and what cameras inherit.

use std::sync::Arc;

use super::error::{Origin, Pos, Problem};
use super::mask::is_secret_key;
use super::section::{Kind as Takes, Section};
use super::tree::{Entry, Kind, Node, parse};

/// Variables that override keys: `OCELLI__MQTT__URL` is `mqtt.url`.
pub(crate) const OVERRIDE_PREFIX: &str = "OCELLI__";

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
/// A duplicate key in one map stays there: it is reported later.
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

/// The tree of one `path=value`: `origin.text` is what the user wrote, its path of keys ends before the first `=`.
pub(crate) fn override_tree(origin: &Arc<Origin>, separator: &str, value: &str) -> Result<Node, Problem> {
    let written = &origin.text[..origin.text.len() - value.len() - 1];
    let place = |column, width: usize| Pos { origin: origin.clone(), line: 1, column, width: width.max(1) };
    let value_column = written.chars().count() + 2;
    let prefix = if separator == "__" { OVERRIDE_PREFIX.len() } else { 0 };
    let mut keys = Vec::new();
    let mut column = prefix + 1;
    for key in written[prefix..].split(separator) {
        let pos = place(column, key.chars().count());
        if key.is_empty() {
            return Err(Problem::new("an empty key").at(&pos).hint("write the keys as in `mqtt.url`"));
        }
        column += key.chars().count() + separator.len();
        keys.push((if prefix > 0 { key.to_lowercase() } else { key.to_owned() }, pos));
    }
    let secret = keys.last().is_some_and(|(key, _)| is_secret_key(key));
    let pos = place(value_column, value.chars().count());
    // Lists and maps are YAML. Any other text is taken as it is: no quoting inside the shell's quoting.
    let node = if value.starts_with(['[', '{']) && !secret {
        // Spaces in front keep the columns of the argument.
        parse(origin, &format!("{}{value}", " ".repeat(value_column - 1)))?
    } else if matches!(value, "" | "null" | "~") {
        Node { pos, kind: Kind::Null }
    } else {
        Node::scalar(pos, value)
    };
    Ok(keys
        .into_iter()
        .rfold(node, |value, (key, pos)| Node { pos: pos.clone(), kind: Kind::Map(vec![Entry { key, pos, value }]) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(index: usize, text: &str) -> Node {
        parse(&Arc::new(Origin { index, label: "t.yaml".into(), text: text.into(), base: "".into() }), text).unwrap()
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
