//! The table of keys as a page for people.

use super::keys::{self, Kind, Section, Short};
use super::value::expected;

/// Markdown tables of all keys with type, range and default.
pub fn reference() -> String {
    let mut page = String::from(PREFACE);
    for section in keys::sections() {
        page.push_str(&table(section));
    }
    page
}

const PREFACE: &str = "\
# Configuration

All keys that `ocelli run` reads. This page is made by `ocelli config schema --markdown`; change the table in
`src/config/keys.rs`, not the page.

- `ocelli config check -c FILE` reports everything that is wrong, each with its line; `ocelli run` uses the same code.
- `ocelli config show --effective` prints what holds, defaults included, secrets hidden.
- Without `-c`, Ocelli reads `./ocelli.yaml`, else `/etc/ocelli/ocelli.yaml`. `-c` may be repeated: later files win, maps
  are merged key by key. Then come variables (`OCELLI__MQTT__URL=…` is `mqtt.url`), then `--set mqtt.url=…`. `null` takes
  a value away.
- `${NAME}` and `${NAME:-default}` in a value mean the systemd credential `NAME`, else the variable `NAME`, else the
  default. A name that is defined nowhere is an error. `$${` is a literal `${`.
- A relative path starts at the folder of the file that names it.
- The shortest complete file is `cameras: {gate: \"rtsp://10.0.0.5/stream1\"}`.

The examples beside this page; their first line tells editors where [the schema](schema.json) is:

- [minimal.yaml](minimal.yaml): the shortest complete file.
- [demo.yaml](demo.yaml): what `make demo` runs.
- [several-cameras.yaml](several-cameras.yaml): common defaults, exceptions, a camera that is switched off.
- [jetson-tensorrt.yaml](jetson-tensorrt.yaml): a Jetson that detects with TensorRT.
- [tls-broker.yaml](tls-broker.yaml): a broker with TLS, secrets from systemd.
- [home-assistant.yaml](home-assistant.yaml): sensors and a camera in Home Assistant.
";

fn title(section: &Section) -> String {
    match section.name {
        "config" => "Top level".into(),
        "camera" => "`cameras.<name>`".into(),
        "detect" => "`detect` (in `defaults` and in a camera)".into(),
        "reconnect" => "`reconnect` (in `defaults` and in a camera)".into(),
        name @ ("tensorrt" | "cuda" | "openvino") => format!("`model.{name}`"),
        "profile" => "`model.tensorrt.profile`".into(),
        name => format!("`{name}`"),
    }
}

fn table(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n{}", title(section), section.doc);
    match section.short {
        Short::None => {}
        Short::Key(key) => text.push_str(&format!(" (A plain text is `{key}`.)")),
        Short::UrlOrFile => text.push_str(" (A plain text with `://` is `url`, any other is `file`.)"),
    }
    text.push_str("\n\n| key | value | default | example | meaning |\n|---|---|---|---|---|\n");
    for key in section.keys {
        let value = match key.kind {
            Kind::Section(below) => format!("keys of {}", title(below)),
            Kind::Named(_) => "name → text or keys".to_owned(),
            kind => expected(kind),
        };
        let default = key.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let row = format!("| `{}` | {value} | {default} | `{}` | {} |", key.name, key.example, key.doc);
        text.push_str(&row);
        text.push('\n');
    }
    text
}
