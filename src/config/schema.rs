//! The table of keys as a JSON Schema (draft 2020-12), for editors.

use serde_json::{Map, Value as Json, json};

use super::file::Config;
use super::read::Keys;
use super::section::{Key, Kind, Section, sections};
use super::value::expected;

/// Values may be references everywhere, numbers and words too.
const REFERENCE: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";

/// JSON Schema of the configuration file.
pub fn schema() -> Json {
    let mut root = object(Config::SECTION);
    let definitions: Map<String, Json> = sections(Config::SECTION)
        .into_iter()
        .skip(1)
        .map(|section| (section.name.to_owned(), definition(section)))
        .collect();
    if let Json::Object(root) = &mut root {
        root.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".into(), json!("Ocelli configuration"));
        root.insert("required".into(), json!(["cameras"]));
        root.insert("$defs".into(), Json::Object(definitions));
    }
    root
}

fn definition(section: &Section) -> Json {
    match section.short {
        [] => object(section),
        _ => json!({
            "description": section.doc(),
            "anyOf": [{ "type": "string", "minLength": 1 }, object(section)],
        }),
    }
}

fn object(section: &Section) -> Json {
    let properties: Map<String, Json> = section.keys().map(|key| (key.name.to_owned(), property(key))).collect();
    json!({
        "description": section.doc(),
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Json {
    let mut schema = match key.kind {
        Kind::Section(section) | Kind::Optional(section) => json!({ "$ref": format!("#/$defs/{}", section.name) }),
        Kind::Named(section) => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$" },
            "additionalProperties": { "$ref": format!("#/$defs/{}", section.name) },
        }),
        Kind::Text | Kind::Path | Kind::Topic | Kind::Name | Kind::Secret => json!({ "type": ["string", "number"] }),
        Kind::Url(schemes) => {
            json!({ "type": "string", "pattern": format!("^({})://|{REFERENCE}", schemes.join("|")) })
        }
        Kind::Sha256 => json!({ "type": "string", "pattern": format!("^[0-9A-Fa-f]{{64}}$|{REFERENCE}") }),
        Kind::Duration(..) => json!({ "type": "string", "pattern": format!("^[0-9]|{REFERENCE}") }),
        Kind::Address => json!({ "type": "string", "pattern": format!(":[0-9]{{1,5}}$|{REFERENCE}") }),
        Kind::Bool => or_reference(json!({ "type": "boolean" })),
        Kind::Integer(min, max) => or_reference(json!({ "type": "integer", "minimum": min, "maximum": max })),
        Kind::Number(min, max) => or_reference(json!({ "type": "number", "minimum": min, "maximum": max })),
        Kind::Word(words) => or_reference(json!({ "enum": words })),
        Kind::Size(min, max) => json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": format!("^[0-9]+([xX×][0-9]+)?$|{REFERENCE}") },
        ] }),
        Kind::Texts => json!({
            "type": "array",
            "items": { "type": ["string", "number"] },
            "minItems": 1,
            "uniqueItems": true,
        }),
    };
    if let Json::Object(schema) = &mut schema {
        let range = match key.kind {
            Kind::Duration(..) => format!(" {}.", capitalized(&expected(key.kind))),
            _ => String::new(),
        };
        schema.insert("description".into(), json!(format!("{}{range}", key.doc())));
        if let Some(default) = key.default {
            schema.insert("default".into(), default_json(key.kind, default));
        }
    }
    schema
}

fn or_reference(schema: Json) -> Json {
    json!({ "anyOf": [schema, { "type": "string", "pattern": format!("^{REFERENCE}$") }] })
}

/// A default with the type that the key has.
fn default_json(kind: Kind, text: &str) -> Json {
    match kind {
        Kind::Bool | Kind::Integer(..) | Kind::Number(..) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        _ => json!(text),
    }
}

pub(crate) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
