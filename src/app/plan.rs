//! What a new configuration changes: a pure comparison of two of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{CameraConfig, Config};
use crate::types::{CameraName, DEFAULT_MODEL};

/// What happens to one camera. A camera that the plan does not name stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Removed,
    /// It has another source, or was enabled or disabled: it is disconnected and connected again.
    Source,
    /// Only its detection differs; the source keeps running.
    Detect,
}

/// The difference between the running configuration and a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Models that are added, changed or removed.
    pub(super) models: BTreeSet<String>,
    pub(super) mqtt: bool,
    pub(super) rtsp: bool,
    pub(super) http: bool,
    pub(super) jsonl: bool,
    pub(super) stats_interval: bool,
    /// Part of all MQTT topics.
    pub(super) node: bool,
    /// Takes effect at the next start only.
    pub(super) state_dir: bool,
    pub(super) cameras: BTreeMap<CameraName, Change>,
}

impl Plan {
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let node = old.node != new.node;
        let stats_interval = old.stats_interval != new.stats_interval;
        Self {
            models: models(old, new),
            mqtt: old.mqtt != new.mqtt || (new.mqtt.is_some() && (node || stats_interval)),
            rtsp: old.rtsp != new.rtsp,
            http: old.http != new.http,
            jsonl: old.jsonl != new.jsonl,
            stats_interval,
            node,
            state_dir: old.state_dir != new.state_dir,
            cameras: cameras(&old.cameras, &new.cameras),
        }
    }
}

fn models(old: &Config, new: &Config) -> BTreeSet<String> {
    let (old, new) = (old.used_models(), new.used_models());
    let changed = new.iter().filter(|(name, model)| old.get(*name) != Some(*model)).map(|(name, _)| name);
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changed.chain(gone).map(|name| (*name).to_owned()).collect()
}

fn cameras(old: &[CameraConfig], new: &[CameraConfig]) -> BTreeMap<CameraName, Change> {
    let find =
        |cameras: &[CameraConfig], name: &CameraName| cameras.iter().find(|camera| camera.name == *name).cloned();
    let names = old.iter().chain(new).map(|camera| &camera.name);
    names.filter_map(|name| Some((name.clone(), change(find(old, name), find(new, name))?))).collect()
}

fn change(old: Option<CameraConfig>, new: Option<CameraConfig>) -> Option<Change> {
    let (Some(old), Some(new)) = (&old, &new) else {
        return Some(if old.is_none() { Change::Added } else { Change::Removed });
    };
    let same_video = old.enabled == new.enabled && old.source == new.source && old.reconnect == new.reconnect;
    (old != new).then_some(if same_video { Change::Detect } else { Change::Source })
}

/// For the log: `mqtt, camera gate (detect), camera dock (added)`.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.mqtt, "mqtt"),
            (self.rtsp, "rtsp"),
            (self.http, "http"),
            (self.jsonl, "jsonl"),
            (self.stats_interval, "stats_interval"),
            (self.node, "node"),
        ];
        let mut all: Vec<String> =
            parts.iter().filter(|(changed, _)| *changed).map(|(_, name)| (*name).to_owned()).collect();
        all.extend(self.models.iter().map(|name| match name.as_str() {
            DEFAULT_MODEL => "model".to_owned(),
            name => format!("model {name}"),
        }));
        for (name, change) in &self.cameras {
            let how = match change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Source => "reconnected",
                Change::Detect => "detection",
            };
            all.push(format!("camera {name} ({how})"));
        }
        if all.is_empty() { f.write_str("nothing") } else { f.write_str(&all.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;

    fn parse(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        config::load(&[file.path().to_owned()], &[]).unwrap()
    }

    fn plan(old: &str, new: &str) -> Plan {
        Plan::between(&parse(old), &parse(new))
    }

    const BASE: &str = "node: n\ncameras:\n  a: rtsp://h/1\n  b: {url: rtsp://h/2}\n";

    #[test]
    fn equal_configurations_change_nothing() {
        assert!(plan(BASE, BASE) == Plan::default());
        // Another way to write the same.
        let other = "node: n\ncameras: {b: rtsp://h/2, a: {url: rtsp://h/1, enabled: true}}\n";
        assert_eq!(plan(BASE, other), Plan::default());
        assert_eq!(plan(BASE, BASE).to_string(), "nothing");
    }

    #[test]
    fn a_plan_names_only_what_changed() {
        let changes =
            |new: &str| plan(BASE, new).cameras.into_iter().map(|(n, c)| (n.to_string(), c)).collect::<Vec<_>>();
        let one = |name: &str, change| vec![(name.to_owned(), change)];
        assert_eq!(changes("node: n\ncameras: {a: rtsp://h/1}\n"), one("b", Change::Removed));
        assert_eq!(changes(&format!("{BASE}  c: rtsp://h/3\n")), one("c", Change::Added));
        assert_eq!(changes("node: n\ncameras: {a: rtsp://h/1, b: rtsp://h/9}\n"), one("b", Change::Source));
        assert_eq!(
            changes("node: n\ncameras: {a: rtsp://h/1, b: {url: rtsp://h/2, enabled: false}}\n"),
            one("b", Change::Source)
        );
        assert_eq!(
            changes("node: n\ncameras: {a: rtsp://h/1, b: {url: rtsp://h/2, detect: {threshold: 0.5}}}\n"),
            one("b", Change::Detect)
        );
        // A default touches all that inherit it, and only those.
        assert_eq!(
            changes(
                "node: n\ndefaults: {detect: {threshold: 0.5}}\ncameras: {a: {url: rtsp://h/1, detect: {threshold: 0.25}}, b: rtsp://h/2}\n"
            ),
            one("b", Change::Detect)
        );
    }

    #[test]
    fn a_model_changes_when_a_camera_uses_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plates.onnx");
        std::fs::write(&file, "").unwrap();
        let models = format!("models: {{plates: {{file: {}}}}}\n", file.display());
        let names = |old: &str, new: &str| plan(old, new).models.into_iter().collect::<Vec<_>>();
        assert!(names(BASE, &format!("{BASE}{models}")).is_empty(), "no camera uses it");
        let using =
            format!("{models}{}", BASE.replace("{url: rtsp://h/2}", "{url: rtsp://h/2, detect: {model: plates}}"));
        assert_eq!(names(BASE, &using), ["plates"]);
        assert_eq!(names(&using, BASE), ["plates"]);
        assert_eq!(names(&using, &using.replace("{file: ", "{threads: 2, file: ")), ["plates"]);
        assert_eq!(names(BASE, &format!("{BASE}model: {{threads: 2}}\n")), ["default"]);
    }

    #[test]
    fn a_new_node_name_restarts_mqtt_when_there_is_a_broker() {
        let other = BASE.replace("node: n", "node: m");
        let without = plan(BASE, &other);
        assert!(without.node && !without.mqtt);
        let broker = "mqtt: mqtt://127.0.0.1\n";
        assert!(plan(&format!("{BASE}{broker}"), &format!("{other}{broker}")).mqtt);
        assert_eq!(plan(BASE, &format!("{BASE}{broker}")).to_string(), "mqtt");
    }
}
