//! JSON bodies: reading them, and saying what is wrong without repeating what must not be seen.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Parses JSON. The parser quotes what it found where a string was wrong, and that may be a secret
/// in the wrong place: such a problem is told by its position alone.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // serde would read `[]` as a struct whose fields are all absent.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("must be a JSON object".to_owned());
    }
    // Also where a field is ignored, which the parser only skips.
    let body = std::str::from_utf8(body).map_err(|_| "is not UTF-8".to_owned())?;
    serde_json::from_str(body).or_else(|error| {
        let text = error.to_string();
        // To JSON Schema, and to programs that know one kind of number, `1.0` is an integer.
        if text.contains("invalid type: floating point")
            && let Ok(value) = serde_json::from_str(body)
            && let Ok(read) = serde_json::from_value(with_whole_numbers(value))
        {
            return Ok(read);
        }
        Err(problem_of(&error, &text))
    })
}

/// What is wrong with a body, without what it quotes.
fn problem_of(error: &serde_json::Error, text: &str) -> String {
    let quotes = [
        "invalid type: string",
        "invalid value: string",
        "invalid type: byte",
    ];
    if quotes.iter().any(|quote| text.contains(quote)) {
        let (line, column) = (error.line(), error.column());
        return format!("a text stands where none belongs, at line {line} column {column}");
    }
    shown(text)
}

/// With numbers like `1.0` as integers.
fn with_whole_numbers(mut value: Value) -> Value {
    match &mut value {
        Value::Number(number) => {
            // Past 2^53 a float names no one integer.
            let whole = number
                .as_f64()
                .filter(|x| x.fract() == 0.0 && x.abs() < 2_f64.powi(53));
            if let Some(text) = whole.map(|x| format!("{x:.0}"))
                && let Ok(integer) = text.parse::<i64>()
            {
                return integer.into();
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = with_whole_numbers(item.take());
            }
        }
        Value::Object(members) => {
            for member in members.values_mut() {
                *member = with_whole_numbers(member.take());
            }
        }
        _ => {}
    }
    value
}

/// A text of the client's, short and printable.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .filter(|symbol| !symbol.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::wire::invite::Code;
    use totoro_api::wire::push::Applied;

    #[test]
    fn a_whole_number_is_an_integer() {
        let read = |number: &str| {
            let body = format!(r#"{{"gen": {number}, "rev": 2.0, "keys": []}}"#);
            let applied = parse::<Applied>(body.as_bytes());
            applied.map(|applied| applied.revision.generation)
        };
        assert_eq!(read("912.0"), Ok(912));
        assert_eq!(read("9.1e2"), Ok(910));
        for wrong in ["0.5", "-1.0", "1e300", "18446744073709551616.0"] {
            assert!(
                read(wrong).unwrap_err().contains("floating point"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_quoted() {
        for body in [
            r#""tn1-SECRET""#,
            r#"{"code": ["tn1-SECRET"]}"#,
            r#"[{"tn1-SECRET": 1}]"#,
        ] {
            let problem = parse::<Code>(body.as_bytes()).unwrap_err();
            assert!(!problem.contains("SECRET"), "{problem}");
        }
        let problem = parse::<Code>(br#"{"code": "x", "cod": 1}"#).unwrap_err();
        assert!(problem.contains("unknown field `cod`"), "{problem}");
    }
}
