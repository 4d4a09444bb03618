//! The types that values are read into.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::macros::scalars;
use super::mask::shortened;
use super::read::{Entry, Field, Keys, Parse};
use super::section::Key;
use super::tree::Kind as NodeKind;
use super::value;
use crate::types::{Priority, Size};

impl<T: Field> Field for Option<T> {
    fn read(entry: &mut Entry<'_>) -> Option<Self> {
        T::read(entry).map(Some)
    }
    fn default_of(key: &Key) -> Option<Self> {
        T::default_of(key).map(Some)
    }
    fn absent() -> Self {
        None
    }
}

scalars! {
    String: |text, _, kind| value::text(text, kind), String::new();
    bool: |text, _, _| value::boolean(text), false;
    u64: |text, _, kind| value::integer(text, kind), 0;
    u8, u32, usize: |text, _, kind| value::integer(text, kind)?.try_into().map_err(|_| None), 0;
    f64: |text, _, kind| value::number(text, kind), 0.0;
    f32: |text, _, kind| value::number(text, kind).map(|number| number as f32), 0.0;
    Duration: |text, _, kind| value::duration(text, kind), Duration::ZERO;
    SocketAddr: |text, _, _| value::address(text), SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Size: |text, _, kind| value::size(text, kind), Size::new(0, 0);
    PathBuf: |text, base, kind| Ok(value::located(&value::text(text, kind)?, base)), PathBuf::new();
    Priority: |text, _, _| value::word(text, PRIORITIES, &[Self::Low, Self::Normal, Self::High]), Self::default();
}

/// The words of [`Priority`].
pub(crate) const PRIORITIES: &[&str] = &["low", "normal", "high"];

impl Field for Vec<String> {
    fn read(entry: &mut Entry<'_>) -> Option<Self> {
        let (path, node) = (entry.path, entry.node);
        let NodeKind::List(items) = &node.kind else {
            let hint = "for example `[person, car]`";
            entry.problem(&node.pos, format!("`{path}` must be a list, not {}", node.describe()), Some(hint.into()));
            return None;
        };
        let mut texts: Self = Vec::with_capacity(items.len());
        let mut right = !items.is_empty();
        for item in items {
            let problem = match &item.kind {
                // That was reported where references are resolved.
                NodeKind::Scalar(scalar) if scalar.unresolved => None,
                NodeKind::Scalar(scalar) if scalar.text.trim().is_empty() => Some("has an empty entry".to_owned()),
                NodeKind::Scalar(scalar) if texts.contains(&scalar.text) => {
                    Some(format!("has `{}` twice", shortened(&scalar.raw)))
                }
                NodeKind::Scalar(scalar) => {
                    texts.push(scalar.text.clone());
                    continue;
                }
                _ => Some(format!("must be a list of texts, not of {}", item.describe())),
            };
            right = false;
            if let Some(problem) = problem {
                entry.problem(&item.pos, format!("`{path}` {problem}"), None);
            }
        }
        if items.is_empty() {
            let hint = "name at least one entry, or leave the key out to get all";
            let text = format!("`{path}` is an empty list, so nothing would be reported");
            entry.problem(&node.pos, text, Some(hint.into()));
        }
        right.then_some(texts)
    }
    fn absent() -> Self {
        Vec::new()
    }
}

impl<T: Keys> Field for BTreeMap<String, T> {
    fn read(entry: &mut Entry<'_>) -> Option<Self> {
        Some(entry.named()?.into_iter().collect())
    }
    fn absent() -> Self {
        Self::new()
    }
}
