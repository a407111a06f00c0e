//! Whether a file has the form that the schema says: every key that is unknown or missing, every value of a wrong
//! type or out of range, all at once.
//!
//! The schema is made from the types, so that this needs no list of its own. It knows as much of JSON schema as the
//! types use. Rejected: to have serde find the mistakes, which stops at the first.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use pangea_base::RegionId;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::document::Document;
use super::problem::{Problem, Severity};
use super::words;

/// Where the words are explained.
const DOCS: &str = "docs/configuration.md";

pub(super) fn check(document: &Document<'_>, schema: &Value) -> Vec<Problem> {
    let mut walk = Walk { document, root: schema, problems: Vec::new() };
    walk.table("", document.root(), schema);
    walk.problems
}

struct Walk<'a> {
    document: &'a Document<'a>,
    root: &'a Value,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    fn error(&mut self, path: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(self.document.error(path, problem, remedy));
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>, schema: &'a Value) {
        let any = &schema["additionalProperties"];
        if any.is_object() {
            for (key, value) in table {
                self.value(&join(path, key.get_ref()), value, any);
            }
        }
        let Some(known) = schema["properties"].as_object() else { return };
        let mut misspelt = BTreeSet::new();
        for (key, value) in table {
            let path = join(path, key.get_ref());
            match known.get(key.get_ref().as_ref()) {
                Some(schema) => self.value(&path, value, schema),
                None => misspelt.extend(self.unknown(&path, key, known, table)),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !table.contains_key(name) && !misspelt.contains(name) {
                let about = self.about(&known[name]);
                self.error(&join(path, name), "is missing", format!("add it: {about}"));
            }
        }
    }

    /// Tells of an unknown key, and which one was meant.
    fn unknown(
        &mut self,
        path: &str,
        key: &Spanned<DeString<'_>>,
        known: &'a Map<String, Value>,
        given: &DeTable<'_>,
    ) -> Option<&'a str> {
        let name = key.get_ref().as_ref();
        let names = || known.keys().map(String::as_str);
        // Rather one that is not there yet.
        let absent = names().filter(|known| !given.contains_key(*known));
        let nearest = nearest(name, absent).or_else(|| nearest(name, names()));
        let remedy = match (nearest, words::instead_of(name), self.elsewhere(name)) {
            // Its words may be near ours, and mean something else.
            (_, Some(instead), _) => format!("that is PgBouncer's word: {instead}"),
            (Some(nearest), None, _) => format!("did you mean {nearest}?"),
            (None, None, Some(place)) => format!("did you mean {place}?"),
            (None, None, None) => {
                format!("remove it; known here are {}", names().collect::<Vec<_>>().join(", "))
            }
        };
        let (span, text) = (Some(key.span()), "unknown key".to_owned());
        self.problems.push(self.document.problem_at(Severity::Error, path, span, text, remedy));
        nearest
    }

    /// The section that has a key of this name.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let mut places = Vec::new();
        for (section, schema) in self.root["properties"].as_object()? {
            let schema = self.resolve(schema);
            if schema["properties"].get(name).is_some() {
                places.push(format!("{section}.{name}"));
            }
        }
        if self.root["properties"].get(name).is_some() {
            places.push(format!("{name} before the first section"));
        }
        (!places.is_empty()).then(|| places.join(" or "))
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, schema: &'a Value) {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return self.choice(path, value, choices);
        }
        match (schema["type"].as_str().unwrap_or_default(), value.get_ref()) {
            ("object", DeValue::Table(table)) => self.table(path, table, schema),
            ("array", DeValue::Array(list)) => {
                self.length(path, list.len(), schema);
                for (place, entry) in list.iter().enumerate() {
                    self.value(&join(path, &place.to_string()), entry, &schema["items"]);
                }
            }
            ("string", DeValue::String(text)) => self.text(path, text, schema),
            ("integer", DeValue::Integer(number)) => self.number(path, number, schema),
            ("boolean", DeValue::Boolean(_)) => {}
            (wanted, found) => {
                let text = format!("is {}, and {} is needed", found_word(found), wanted_word(wanted));
                self.error(path, text, type_remedy(path, wanted, found));
            }
        }
    }

    /// One of several words, or one of several tables that a word tells apart.
    fn choice(&mut self, path: &str, value: &Spanned<DeValue<'_>>, choices: &'a [Value]) {
        let tables = choices.iter().any(|choice| choice["type"] == "object");
        match value.get_ref() {
            DeValue::Table(table) if tables => {
                let Some(tag) = choices.iter().find_map(tag) else { return };
                let kinds =
                    || choices.iter().filter_map(|choice| choice["properties"][tag]["const"].as_str());
                let path_of_tag = join(path, tag);
                let names = || kinds().collect::<Vec<_>>().join(" or ");
                let Some(given) = table.get(tag) else {
                    return self.error(&path_of_tag, "is missing", format!("write {}", names()));
                };
                let given = given.get_ref().as_str().unwrap_or_default();
                let fits = |choice: &&Value| choice["properties"][tag]["const"] == given;
                match choices.iter().find(fits) {
                    Some(choice) => self.table(path, table, choice),
                    None => self.error(&path_of_tag, format!("is {given:?}"), format!("write {}", names())),
                }
            }
            DeValue::String(given) if !tables => {
                let words = || choices.iter().filter_map(|choice| choice["const"].as_str());
                if !words().any(|word| word == given) {
                    let all = words().collect::<Vec<_>>().join(" or ");
                    self.error(path, format!("is {given:?}"), format!("write {all}"));
                }
            }
            found => {
                let wanted = if tables { "object" } else { "string" };
                let text = format!("is {}, and {} is needed", found_word(found), wanted_word(wanted));
                self.error(path, text, type_remedy(path, wanted, found));
            }
        }
    }

    fn text(&mut self, path: &str, text: &str, schema: &Value) {
        let wrong = match schema["format"].as_str() {
            Some("socket-address") if text.parse::<SocketAddr>().is_err() => Some(
                "write an IP address and a port, as in \"10.0.0.1:6432\" or \"[fd00::1]:6432\"".to_owned(),
            ),
            Some("ip") if text.parse::<IpAddr>().is_err() => {
                Some("write an IP address, as in \"10.0.0.1\" or \"fd00::1\"".to_owned())
            }
            Some("region") if text.parse::<RegionId>().is_err() => {
                let most = RegionId::LEN_MAX;
                Some(format!(
                    "use 1 to {most} lower-case letters, digits and inner hyphens, as in \"eu-west-1\""
                ))
            }
            _ => None,
        };
        if let Some(remedy) = wrong {
            self.error(path, format!("is {text:?}"), remedy);
        }
    }

    fn number(&mut self, path: &str, number: &DeInteger<'_>, schema: &Value) {
        let value = i128::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
        // What a number of TOML can hold.
        let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
        let most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
        if value.is_none_or(|value| value < least.into() || value > most.into()) {
            let range = match most {
                i64::MAX => format!("at least {least}"),
                _ => format!("{least} to {most}"),
            };
            self.error(path, format!("is {number}"), format!("write a number from its range: {range}"));
        }
    }

    fn length(&mut self, path: &str, length: usize, schema: &Value) {
        let limit = |name: &str| schema[name].as_u64().and_then(|limit| usize::try_from(limit).ok());
        let (least, most) = (limit("minItems").unwrap_or(0), limit("maxItems").unwrap_or(usize::MAX));
        if !(least..=most).contains(&length) {
            self.error(path, format!("has {length} entries"), format!("write {least} to {most}"));
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = schema["$ref"].as_str().and_then(|name| self.root.pointer(name.trim_start_matches('#')));
        target.unwrap_or(schema)
    }

    /// The first sentence of what is said about a key.
    fn about(&self, schema: &'a Value) -> &'a str {
        let said = schema["description"].as_str().or_else(|| self.resolve(schema)["description"].as_str());
        let sentence = said.and_then(|said| said.split(['.', ':', ';']).next());
        sentence.unwrap_or(DOCS)
    }
}

/// The key whose value tells tables apart.
fn tag(choice: &Value) -> Option<&str> {
    let mut properties = choice["properties"].as_object()?.iter();
    properties.find(|(_, schema)| schema.get("const").is_some()).map(|(name, _)| name.as_str())
}

/// The word that was probably meant: with a third of its letters wrong it is another one.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |word: &&'k str| strsim::damerau_levenshtein(&name.to_lowercase(), word);
    let (found, distance) =
        known.map(|word| (word, distance(&word))).min_by_key(|(_, distance)| *distance)?;
    (distance <= (found.len().max(name.len()) / 3).max(1)).then_some(found)
}

fn join(path: &str, step: &str) -> String {
    if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") }
}

fn wanted_word(wanted: &str) -> &'static str {
    match wanted {
        "object" => "a section",
        "array" => "a list",
        "integer" => "a whole number",
        "boolean" => "true or false",
        _ => "a string",
    }
}

fn found_word(found: &DeValue<'_>) -> &'static str {
    match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn type_remedy(path: &str, wanted: &str, found: &DeValue<'_>) -> String {
    match (wanted, found) {
        ("integer" | "boolean", DeValue::String(_)) => "write it without quotes".to_owned(),
        ("string", DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
            "write it in quotes".to_owned()
        }
        ("array", DeValue::Table(_)) => format!("write [[{path}]]"),
        ("array", _) => "write it in brackets, as in [\"…\"]".to_owned(),
        ("object", DeValue::Array(_)) => format!("write [{path}]"),
        ("object", _) => format!("write a section [{path}] with its keys below"),
        _ => format!("see {DOCS}"),
    }
}
