//! The document as a page: no script, one style, nothing from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use totoro_api::Reason;
use totoro_api::reason::Lang;
use totoro_web::STYLE;

/// The page of a document.
pub(super) fn of(document: &Value) -> Markup {
    let info = &document["info"];
    let tags = list(&document["tags"]);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (str(&info["title"])) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (str(&info["title"])) " " span.dim { (str(&info["version"])) } }
                    nav {
                        @for tag in tags {
                            a href={ "#" (anchor(str(&tag["name"]))) } { (str(&tag["name"])) }
                        }
                        a href="#reasons" { "Reasons" }
                        a href="#types" { "Types" }
                        a href="openapi.json" { "OpenAPI 3.1" }
                    }
                    (text(str(&info["description"])))
                }
                main {
                    @for tag in tags { (group(document, tag)) }
                    (reasons())
                    h2 #types { "Types" }
                    @for (name, schema) in members(&document["components"]["schemas"]) {
                        article id={ "type-" (name) } {
                            h3 { code { (name) } }
                            (text(str(&schema["description"])))
                            (shape(schema))
                        }
                    }
                }
            }
        }
    }
}

fn group(document: &Value, tag: &Value) -> Markup {
    let name = str(&tag["name"]);
    html! {
        h2 id=(anchor(name)) { (name) }
        (text(str(&tag["description"])))
        @for (path, methods) in members(&document["paths"]) {
            @for (method, call) in members(methods) {
                @if call["tags"][0] == *name { (self::call(document, method, path, call)) }
            }
        }
    }
}

fn call(document: &Value, method: &str, path: &str, call: &Value) -> Markup {
    let body = &call["requestBody"];
    html! {
        details id=(str(&call["operationId"])) {
            summary {
                b { (method.to_uppercase()) } " " code { (path) } " "
                span { (str(&call["summary"])) }
            }
            (text(str(&call["description"])))
            (credentials(document, &call["security"]))
            @if !list(&call["parameters"]).is_empty() {
                h4 { "Parameters" }
                dl {
                    @for parameter in list(&call["parameters"]) {
                        dt {
                            code { (str(&parameter["name"])) } " "
                            span.dim {
                                (str(&parameter["in"]))
                                @if parameter["required"] == true { ", required" }
                                ", " (kind(&parameter["schema"]))
                            }
                        }
                        dd { (text(str(&parameter["description"]))) }
                    }
                }
            }
            @for (media, content) in members(&body["content"]) {
                h4 { "Body: " code { (media) } }
                p { (kind(&content["schema"])) " " span.dim { (str(&body["description"])) } }
                @if let Some(example) = content.get("example") { pre { (pretty(example)) } }
            }
            h4 { "Answers" }
            dl {
                @for (status, answer) in members(&call["responses"]) {
                    dt {
                        code { (status) } " "
                        @for (media, content) in members(&answer["content"]) {
                            span.dim { (media) " " (kind(&content["schema"])) " " }
                        }
                    }
                    dd {
                        (text(str(&answer["description"])))
                        @for (name, header) in members(&answer["headers"]) {
                            @if let Some(says) = header["description"].as_str() {
                                div.dim { code { (name) } ": " (inline(says)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn credentials(document: &Value, security: &Value) -> Markup {
    let schemes = &document["components"]["securitySchemes"];
    let alternatives = list(security).iter().flat_map(members);
    html! {
        @for (name, scopes) in alternatives {
            div.dim {
                code { (name) }
                @for scope in list(scopes) { " " code { (str(scope)) } }
                " (" (str(&schemes[name]["scheme"])) "): " (inline(str(&schemes[name]["description"])))
            }
        }
    }
}

fn reasons() -> Markup {
    html! {
        h2 #reasons { "Reasons" }
        p { "The codes of refusals, with their numbers. A problem's " code { "type" } " points here; " code { "docs/reasons.md" } " of the sources is the same table." }
        dl {
            @for reason in Reason::ALL {
                dt id=(reason.code()) { code { (reason.code()) } " " span.dim { (reason.number()) } }
                dd {
                    (reason.what(Lang::En)) "; " (reason.next(Lang::En)) "."
                    br;
                    span lang="zh" { (reason.what(Lang::Zh)) "；" (reason.next(Lang::Zh)) "。" }
                }
            }
        }
    }
}

/// What a schema has in it.
fn shape(schema: &Value) -> Markup {
    let required = list(&schema["required"]);
    html! {
        @if schema.get("properties").is_none() && schema.get("allOf").is_none() {
            p { (kind(schema)) }
        }
        dl {
            @for (name, field) in members(&schema["properties"]) {
                dt {
                    code { (name) } " "
                    span.dim {
                        (kind(field))
                        @if required.iter().any(|one| one == name) { ", required" }
                    }
                }
                dd { (text(str(&field["description"]))) }
            }
        }
        @for part in list(&schema["allOf"]) {
            @if part.get("$ref").is_some() { p { "and " (kind(part)) } } @else { (shape(part)) }
        }
    }
}

/// A schema in a few words.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
        return html! { a href={ "#type-" (name) } { (name) } };
    }
    for choice in ["oneOf", "anyOf"] {
        let parts = list(&schema[choice]).iter();
        let parts: Vec<&Value> = parts.filter(|part| part["type"] != "null").collect();
        if !parts.is_empty() && schema.get("properties").is_none() {
            return html! {
                @for (index, part) in parts.into_iter().enumerate() {
                    @if index > 0 { " or " }
                    (kind(part))
                }
            };
        }
    }
    let names = match &schema["type"] {
        Value::Array(names) => names.iter().filter(|&name| name != "null").collect(),
        name => vec![name],
    };
    let name = names.first().map_or("", |name| str(name));
    html! {
        @if name == "array" {
            "list of " (kind(&schema["items"]))
        } @else if name.is_empty() {
            "anything"
        } @else {
            (name)
        }
        @for (index, value) in list(&schema["enum"]).iter().enumerate() {
            @if index == 0 { ": " } @else { ", " }
            code { (str(value)) }
        }
        @for (member, words) in BOUNDS {
            @if let Some(value) = schema.get(member) {
                ", " (words) " "
                code { @if let Some(text) = value.as_str() { (text) } @else { (value.to_string()) } }
            }
        }
    }
}

/// What narrows a schema, and how it is said.
const BOUNDS: [(&str, &str); 8] = [
    ("format", "as"),
    ("pattern", "matching"),
    ("minimum", "from"),
    ("maximum", "to"),
    ("minLength", "characters at least"),
    ("maxLength", "characters at most"),
    ("minItems", "entries at least"),
    ("maxItems", "entries at most"),
];

/// Paragraphs, lists and `code`: as much of Markdown as descriptions have.
fn text(text: &str) -> Markup {
    let is_item = |line: &&str| line.starts_with("- ");
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    html! {
        @for block in blocks {
            @let lines: Vec<&str> = block.lines().collect();
            @if lines.iter().all(is_item) {
                ul { @for line in &lines { li { (inline(line.trim_start_matches("- "))) } } }
            } @else {
                p { (inline(block)) }
            }
        }
    }
}

fn inline(text: &str) -> Markup {
    html! {
        @for (index, piece) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

fn anchor(name: &str) -> String {
    name.to_lowercase().replace(' ', "-")
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn str(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}
