//! Typed reading of checked keys: the first section that gives a key wins, then the table's default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

use super::check::{Given, Group};
use super::keys::Section;
use super::value::{Value, default};
use crate::types::{Size, Url};

/// One section seen through several places that may give its keys.
pub(crate) struct View<'a> {
    section: &'static Section,
    groups: Vec<&'a Group>,
}

impl<'a> View<'a> {
    /// `groups` in the order in which they are asked; absent ones are skipped.
    pub(crate) fn new<const N: usize>(section: &'static Section, groups: [Option<&'a Group>; N]) -> Self {
        Self { section, groups: groups.into_iter().flatten().collect() }
    }

    /// A section that is there.
    pub(crate) fn of(group: &'a Group) -> Self {
        Self::new(group.section, [Some(group)])
    }

    pub(crate) fn section(&self) -> &'static Section {
        self.section
    }

    pub(crate) fn given(&self, key: &str) -> Option<&'a Given> {
        self.groups.iter().find_map(|group| group.given(key))
    }

    pub(crate) fn value(&self, key: &str) -> Option<Value> {
        self.given(key).map(|given| given.value.clone()).or_else(|| default(self.section, key))
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A word as the program's enum. The table lists only words that the enum knows; a test holds that.
    pub(crate) fn word<T: Default + for<'de> Deserialize<'de>>(&self, key: &str) -> T {
        self.text(key).and_then(|text| parse_word(&text)).unwrap_or_default()
    }

    pub(crate) fn boolean(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Bool(true)))
    }

    pub(crate) fn integer(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Some(Value::Integer(integer)) => Some(integer),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        match self.value(key) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Zero only for a key without a default that is absent.
    pub(crate) fn duration(&self, key: &str) -> Duration {
        match self.value(key) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    /// Port 0 only for a key without a default that is absent.
    pub(crate) fn address(&self, key: &str) -> SocketAddr {
        match self.value(key) {
            Some(Value::Address(address)) => address,
            _ => SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Option<Size> {
        match self.value(key) {
            Some(Value::Size(size)) => Some(size),
            _ => None,
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Option<Vec<String>> {
        match self.value(key) {
            Some(Value::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        self.given(key).and_then(located)
    }
}

pub(crate) fn parse_word<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let deserializer: StrDeserializer<'_, WordError> = text.into_deserializer();
    T::deserialize(deserializer).ok()
}

/// A path, relative to the folder of the file that names it.
pub(crate) fn located(given: &Given) -> Option<PathBuf> {
    match &given.value {
        Value::Text(text) => Some(given.pos.origin.base.join(text)),
        _ => None,
    }
}

/// The URL of a value that was checked to be one.
pub(crate) fn url(given: &Given) -> Option<Url> {
    match &given.value {
        Value::Text(text) => Url::parse(text.trim()).ok(),
        _ => None,
    }
}
