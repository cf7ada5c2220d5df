//! The interface's document, read as somebody does who tries every route of it.

use dunlin_e2e::Outcome;
use serde_json::{Map, Value, json};

/// A request that can be made.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) id: String,
    pub(super) method: String,
    /// With parameters in braces.
    pub(super) path: String,
    /// Parameters behind the `?` that are needed, as they are written.
    query: String,
    /// A body that can be read, where there is one.
    pub(super) body: Option<Value>,
}

/// Returns all of the document.
pub(super) fn operations() -> Outcome<Vec<Operation>> {
    let document: Value = serde_json::from_str(&dunlin_fleet::api::document_text())?;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = (!schema.is_null()).then(|| sample(&document, schema));
            found.push(Operation {
                id: operation["operationId"].as_str().unwrap_or_default().to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                query: query_of(operation),
                body,
            });
        }
    }
    assert!(found.len() > 50, "{} operations", found.len());
    Ok(found)
}

impl Operation {
    /// Returns the path with a value in place of each parameter.
    pub(super) fn path_with(&self, value: impl Fn(&str, &str) -> String) -> String {
        let (mut before, mut path) = (String::new(), String::new());
        for part in self.path.split('/').skip(1) {
            let filled = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => value(&before, name),
                None => part.to_owned(),
            };
            part.clone_into(&mut before);
            path.push('/');
            path.push_str(&filled);
        }
        path + &self.query
    }

    /// Tells whether the path names an object.
    pub(super) fn names_an_object(&self) -> bool {
        self.path.contains('{')
    }

    /// Returns the body as it is sent.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.body.as_ref().map(|body| body.to_string().into_bytes()).unwrap_or_default()
    }

    /// Returns the headers that belong to the body, and the condition that any state meets.
    pub(super) fn headers(&self) -> &'static str {
        if self.body.is_some() { "content-type: application/json\r\nif-match: *\r\n" } else { "" }
    }
}

/// Returns the needed parameters of an operation; of a choice the first.
fn query_of(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let needed = parameters.filter(|one| one["in"] == "query" && one["required"] == true);
    let pairs = needed.map(|one| {
        let choice = one["schema"]["pattern"].as_str().and_then(|choice| choice.strip_prefix("^("));
        let first = choice.and_then(|choice| choice.split('|').next()).unwrap_or("x");
        format!("{}={first}", one["name"].as_str().unwrap_or_default())
    });
    let pairs: Vec<String> = pairs.collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Makes the least value that a schema takes, with a reason wherever one can be given.
fn sample(document: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return document.pointer(&name[1..]).map_or(Value::Null, |schema| sample(document, schema));
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(first) = schema["oneOf"].get(0) {
        return sample(document, first);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "object" => {
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let members = schema["properties"].as_object().into_iter().flatten();
            let members = members.filter(|(name, _)| required.contains(&name.as_str()) || *name == "reason");
            let filled: Map<String, Value> = members
                .map(|(name, schema)| {
                    let value = match name.as_str() {
                        "reason" => json!("tried"),
                        "labels" => json!({ "site": "a" }),
                        "query" => json!("site=b"),
                        _ => sample(document, schema),
                    };
                    (name.clone(), value)
                })
                .collect();
            Value::Object(filled)
        }
        "string" if schema["pattern"].is_string() => json!("00".repeat(32)),
        "string" => {
            let length = schema["minLength"].as_u64().unwrap_or(1);
            json!("x".repeat(usize::try_from(length).unwrap()))
        }
        "integer" | "number" => json!(schema["minimum"].as_u64().unwrap_or(0)),
        "array" => json!([]),
        "boolean" => json!(false),
        _ => Value::Null,
    }
}
