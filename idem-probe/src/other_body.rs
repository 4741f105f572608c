//! Another body that the operation accepts as well.

use serde_json::{Number, Value};

/// The same JSON with its first number one larger, or its first text longer. `None` where there is
/// neither.
pub(crate) fn derive(body: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(body).ok()?;
    let changed = change(&mut value, &mut increase) || change(&mut value, &mut lengthen);
    changed.then(|| value.to_string())
}

fn increase(value: &mut Value) -> bool {
    let larger = match value {
        Value::Number(number) => number.as_u64().and_then(|number| number.checked_add(1)),
        _ => None,
    };
    larger.is_some_and(|larger| {
        *value = Value::Number(Number::from(larger));
        true
    })
}

fn lengthen(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            text.push_str(" 2");
            true
        }
        _ => false,
    }
}

/// Changes the first value that can be.
fn change(value: &mut Value, with: &mut impl FnMut(&mut Value) -> bool) -> bool {
    with(value)
        || match value {
            Value::Array(values) => values.iter_mut().any(|value| change(value, with)),
            Value::Object(members) => members.values_mut().any(|value| change(value, with)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::derive;

    #[test]
    fn one_value_is_another() {
        for (body, other) in [
            (r#"{"to":"a","amount":5}"#, Some(r#"{"amount":6,"to":"a"}"#)),
            (
                r#"{"lines":[{"count":1},2]}"#,
                Some(r#"{"lines":[{"count":2},2]}"#),
            ),
            (r#"{"to":"a"}"#, Some(r#"{"to":"a 2"}"#)),
            ("5", Some("6")),
            ("{}", None),
            ("amount=5", None),
        ] {
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(
                derive(body).map(|it| value(&it)),
                other.map(value),
                "{body}"
            );
        }
    }
}
