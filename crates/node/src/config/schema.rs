//! The JSON schema (draft 2020-12) of a region's configuration, made from the types.

use serde_json::{Map, Value};

use super::RegionConfig;

/// The schema. `docs/region.schema.json` is this.
#[must_use]
pub fn region_schema() -> Value {
    let mut schema = schemars::schema_for!(RegionConfig).to_value();
    without_null(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "Pangea region".into());
    }
    schema
}

/// TOML has no null: what is optional is left out.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            object.retain(|_, value| !value.is_null());
            if let Some(Value::String(said)) = object.get_mut("description") {
                // Where a line of the source ends is of no interest.
                *said = said.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(only) = only_choice(object) {
                object.remove("anyOf");
                object.extend(only);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What `anyOf` says when it is one choice and null.
fn only_choice(object: &Map<String, Value>) -> Option<Map<String, Value>> {
    let choices = object.get("anyOf")?.as_array()?;
    let mut others = choices.iter().filter(|choice| choice["type"] != "null");
    match (others.next(), others.next()) {
        (Some(only), None) => only.as_object().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::words;

    const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/region.schema.json");
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

    /// `PANGEA_REWRITE=1` writes the file.
    #[test]
    fn the_checked_in_schema_is_what_the_types_say() {
        let schema = region_schema();
        if std::env::var_os("PANGEA_REWRITE").is_some() {
            fs::write(SCHEMA, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
        }
        let checked_in = fs::read_to_string(SCHEMA).unwrap_or_default();
        let same = serde_json::from_str::<Value>(&checked_in).is_ok_and(|found| found == schema);
        assert!(same, "renew docs/region.schema.json: pangea config schema > docs/region.schema.json");
    }

    /// A key, its description, its type and its default.
    type Leaf = (String, String, String, Option<Value>);

    /// Every key that holds a value.
    fn leaves(root: &Value, schema: &Value, path: &str, found: &mut Vec<Leaf>) {
        let target = schema["$ref"].as_str().and_then(|name| root.pointer(name.trim_start_matches('#')));
        let resolved = target.unwrap_or(schema);
        for (name, property) in resolved["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            leaves(root, property, &path, found);
        }
        let choices = resolved["oneOf"].as_array();
        for choice in choices.into_iter().flatten().filter(|choice| choice["properties"].is_object()) {
            leaves(root, choice, path, found);
        }
        let is_table = |schema: &Value| schema["properties"].is_object() || schema["$ref"].is_string();
        if is_table(&resolved["additionalProperties"]) {
            return leaves(root, &resolved["additionalProperties"], &format!("{path}.NAME"), found);
        }
        if is_table(&resolved["items"]) {
            return leaves(root, &resolved["items"], &format!("{path}[]"), found);
        }
        let tables = choices.is_some_and(|choices| choices.iter().any(|choice| choice["type"] == "object"));
        if !resolved["properties"].is_object() && !tables {
            let said = |schema: &Value| schema["description"].as_str().map(str::to_owned);
            let about = said(schema).or_else(|| said(resolved)).unwrap_or_default();
            let kind = resolved["type"].as_str().unwrap_or("string").to_owned();
            found.push((path.to_owned(), about, kind, schema.get("default").cloned()));
        }
    }

    fn all() -> Vec<Leaf> {
        let (schema, mut found) = (region_schema(), Vec::new());
        leaves(&schema, &schema, "", &mut found);
        found
    }

    #[test]
    fn every_key_is_described_with_its_unit() {
        for (path, about, _, _) in all() {
            let about = about.to_lowercase();
            let unit = match path.rsplit('_').next() {
                Some("ms") => "millisecond",
                Some("s") => "second",
                _ if path.contains("bytes") => "byte",
                _ => "",
            };
            assert!(about.contains(unit), "{path}: {about}");
            assert!(!about.is_empty() || path == "store.kind", "{path} says nothing");
            assert!(!about.contains("[`"), "{path} links to what no operator sees: {about}");
        }
    }

    #[test]
    fn every_key_is_in_the_page_with_its_type_and_default() {
        let page = fs::read_to_string(PAGE).unwrap();
        for (path, _, kind, default) in all() {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{path}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {path}"));
            let word = match kind.as_str() {
                "integer" => "number",
                "array" => "list",
                word => word,
            };
            assert!(row.split('|').nth(2).unwrap().contains(word), "{path} is a {word}: {row}");
            if let Some(default) =
                default.filter(|default| default.as_array().is_none_or(|it| !it.is_empty()))
            {
                let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
                assert!(row.split('|').nth(3).unwrap().contains(&default), "{path} is {default}: {row}");
            }
        }
        for word in words::all() {
            assert!(page.contains(&format!("`{word}`")), "docs/configuration.md does not name {word}");
        }
    }

    #[test]
    fn the_example_in_the_page_is_good() {
        let page = fs::read_to_string(PAGE).unwrap();
        let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), example).unwrap();
        let review = crate::Review::of_content(file.path());
        assert!(review.is_good() && review.problems.is_empty(), "{review:?}");
    }
}
